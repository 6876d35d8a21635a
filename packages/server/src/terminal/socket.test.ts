import { EventEmitter } from 'node:events'
import { expect, test } from 'vitest'
import type { WebSocket } from 'ws'
import { manualClock } from '../kernel/clock.ts'
import { terminalLimits } from './schema.ts'
import { createTerminalSocket } from './socket.ts'

/** A connection whose peer is the test, in front of a program that takes nothing of what is typed. */
function viewerOfBusyProgram() {
  const taken: (() => void)[] = []
  const calls = { pauses: 0, resumes: 0 }
  const ws = Object.assign(new EventEmitter(), {
    OPEN: 1,
    CLOSED: 3,
    readyState: 1,
    bufferedAmount: 0,
    pause: () => void calls.pauses++,
    resume: () => void calls.resumes++,
    send() {},
    close() {},
    terminate() {},
    ping() {},
  })
  const socket = createTerminalSocket(ws as unknown as WebSocket, { clock: manualClock(0), timing: terminalLimits })
  socket.serve({
    write: () => new Promise<void>((resolve) => taken.push(resolve)),
    resize() {},
    taken() {},
    addSource: () => () => {},
    leave() {},
  })
  Object.assign(calls, { pauses: 0, resumes: 0 })
  const type = (bytes: number) => ws.emit('message', Buffer.alloc(bytes, 'x'), true)
  return { calls, taken, type, close: () => ws.emit('close') }
}

test('a viewer that types more than the program takes is read no further until some was taken', async () => {
  const { calls, taken, type, close } = viewerOfBusyProgram()
  let frames = 0
  while (calls.pauses === 0 && frames < 100) {
    type(32 * 1024)
    frames += 1
  }
  expect(frames * 32 * 1024).toBeLessThanOrEqual(terminalLimits.inputQueueBytes + 32 * 1024)
  for (const take of taken.splice(0)) take()
  await new Promise(setImmediate)
  expect(calls.resumes).toBe(1)
  close()
})

test('a frame of one byte counts as what it costs', () => {
  const { calls, type, close } = viewerOfBusyProgram()
  let frames = 0
  while (calls.pauses === 0 && frames < terminalLimits.inputQueueBytes) {
    type(1)
    frames += 1
  }
  expect(frames).toBeLessThan(2_000)
  close()
})
