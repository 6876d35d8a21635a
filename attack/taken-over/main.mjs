// Plays an HTTP process that someone has taken over. It runs where the real one runs, with the helper's socket open as descriptor 3, and
// does what the battery tells it: starts hostile programs, and says to the helper what the real one never would.
import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import { Socket } from 'node:net'
import { join } from 'node:path'

const helper = new Socket({ fd: 3, readable: true, writable: true })
const children = new Map()
let answered = 0
let refused = 0
let rest = Buffer.alloc(0)

helper.on('data', (chunk) => {
  rest = Buffer.concat([rest, chunk])
  while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32LE(0)) {
    const frame = rest.subarray(4, 4 + rest.readUInt32LE(0))
    rest = rest.subarray(4 + frame.length)
    if (frame[0] === 101) process.exit(0)
    if (frame[0] >= 100) continue
    answered++
    if (frame.readUInt16LE(5) !== 0) refused++
  }
})
// The helper lets go of whoever breaks the protocol, and starts the next.
helper.on('close', () => process.exit(0))
helper.on('error', () => process.exit(0))

const orders = {
  /** Starts the battery's program and answers when it has done its worst; it goes on holding what it got. */
  start({ args }) {
    const child = spawn(join(import.meta.dirname, 'attack'), args, { stdio: ['pipe', 'pipe', 'inherit'] })
    children.set(child.pid, child)
    return new Promise((done, fail) => {
      const said = []
      child.stdout.on('data', (chunk) => {
        said.push(chunk)
        if (chunk.toString('latin1').endsWith('\ndone\n'))
          done({ pid: child.pid, said: Buffer.concat(said).toString('latin1') })
      })
      child.on('error', fail)
      child.on('exit', (code, signal) => fail(new Error(`it ended with ${code ?? signal}`)))
    })
  },
  end({ pid }) {
    children.get(pid)?.kill('SIGKILL')
    children.delete(pid)
  },
  /** Writes frames, given as base64, as they are. */
  async say({ frames }) {
    for (const frame of frames)
      if (!helper.write(Buffer.from(frame, 'base64'))) await new Promise((done) => helper.once('drain', done))
  },
  heard: () => ({ answered, refused }),
}

createServer(async (request, response) => {
  const parts = []
  for await (const part of request) parts.push(part)
  const { order, ...what } = JSON.parse(Buffer.concat(parts).toString())
  try {
    response.end(JSON.stringify((await orders[order](what)) ?? {}))
  } catch (error) {
    response.statusCode = 500
    response.end(String(error?.message ?? error))
  }
}).listen(Number(process.env.PORT), '127.0.0.1')
