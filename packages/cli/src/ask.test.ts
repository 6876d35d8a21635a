import { expect, test } from 'vitest'
import { createAsk } from './ask.ts'
import type { Io } from './io.ts'

function startAsk(chunks: string[], { tty = false } = {}) {
  let shown = ''
  const raw: boolean[] = []
  const stream = { isTTY: tty, write: (data: string | Uint8Array) => (shown += String(data)) !== '', once: () => {} }
  const stdin = Object.assign(
    (async function* () {
      for (const chunk of chunks) yield Buffer.from(chunk)
    })(),
    { isTTY: tty },
  )
  const io: Io = {
    env: {},
    stdin,
    stdinHasData: !tty,
    stdout: stream,
    stderr: stream,
    onSignal: () => () => {},
    setRaw: (on) => void raw.push(on),
    onResize: () => () => {},
    onClosedOutput() {},
  }
  return { ask: createAsk(io), shown: () => shown, raw }
}

test('without a terminal each question takes a line, however they arrive', async () => {
  const { ask, shown } = startAsk(['fir', 'st\nsec', 'ond\r\nthird'])
  expect([await ask('A: '), await ask('B: '), await ask('C: ')]).toEqual(['first', 'second', 'third'])
  expect(shown()).toBe('')
  await expect(ask('Password: ')).rejects.toThrow('Password is missing')
})

test('on a terminal what is secret is not shown, and can be corrected', async () => {
  const { ask, shown, raw } = startAsk(['sek', 'x\x7fret\r', 'visible\r'], { tty: true })
  expect(await ask('Password: ', { secret: true })).toBe('sekret')
  expect(shown()).toBe('Password: \n')
  expect(await ask('Code: ')).toBe('visible')
  expect(shown()).toBe('Password: \nCode: visible\n')
  expect(raw).toEqual([true, false, true, false])
})

test('Ctrl-C gives up, and the terminal is as it was', async () => {
  const { ask, raw } = startAsk(['abc\x03'], { tty: true })
  await expect(ask('Password: ', { secret: true })).rejects.toMatchObject({ signalNumber: 2 })
  expect(raw).toEqual([true, false])
})
