#!/usr/bin/env node
import { spawnSync } from 'node:child_process'
import { fstatSync } from 'node:fs'
import type { Io } from './io.ts'
import { runCli } from './program.ts'

const io: Io = {
  env: process.env,
  stdin: process.stdin,
  get stdinHasData() {
    return hasData()
  },
  stdout: process.stdout,
  stderr: process.stderr,
  onSignal(signal, listener) {
    process.on(signal, listener)
    return () => process.off(signal, listener)
  },
  setRaw(on) {
    process.stdin.setRawMode(on)
    // Node leaves the terminal to make every \n a new line, which tears the picture of programs that mean "down" by it. Without stty it stays so.
    if (on) spawnSync('stty', ['-opost'], { stdio: ['inherit', 'ignore', 'ignore'] })
  },
  onResize(listener) {
    process.stdout.on('resize', listener)
    return () => process.stdout.off('resize', listener)
  },
  onClosedOutput(listener) {
    closedListeners.push(listener)
  },
}

const closedListeners: (() => void)[] = []
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  // Without a command to kill first there is nothing left to do, as for any program that writes into a closed pipe.
  if (closedListeners.length === 0) process.exit(141)
  for (const listener of closedListeners) listener()
})

process.exitCode = await runCli(process.argv.slice(2), io)
// A pipe on stdin that stays open must not keep a command alive that is over.
process.stdin.destroy()

/** A pipe, a file or a socket; not a terminal, not /dev/null. */
function hasData(): boolean {
  try {
    return !fstatSync(0).isCharacterDevice()
  } catch {
    return false
  }
}
