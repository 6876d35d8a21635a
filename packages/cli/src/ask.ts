import { constants } from 'node:os'
import { Interrupted, UsageError } from './failure.ts'
import type { Io } from './io.ts'

const mostChars = 4_096
const [ctrlC, ctrlD, backspace, del] = ['\x03', '\x04', '\b', '\x7f']

/** Asks for one line. What is secret is not shown while it is typed. Without a terminal the next line of stdin is taken. */
export interface Ask {
  (question: string, options?: { secret?: boolean }): Promise<string>
}

export function createAsk(io: Io): Ask {
  const source = io.stdin[Symbol.asyncIterator]()
  let left = ''

  async function more(): Promise<boolean> {
    const { value, done } = await source.next()
    if (done) return false
    left += Buffer.from(value).toString('utf8')
    return true
  }

  async function pipedLine(question: string): Promise<string> {
    while (!left.includes('\n') && left.length < mostChars && (await more()));
    const [line = ''] = left.split('\n', 1)
    left = left.slice(line.length + 1)
    if (line === '')
      throw new UsageError(`${question.replace(/:\s*$/, '')} is missing: give it on stdin, or use a terminal`)
    return line.replace(/\r$/, '')
  }

  async function typedLine(secret: boolean): Promise<string> {
    let line = ''
    io.setRaw(true)
    try {
      for (;;) {
        if (left === '' && !(await more())) return line
        const [key = ''] = left
        left = left.slice(key.length)
        if (key === '\r' || key === '\n') return line
        if (key === ctrlC || (key === ctrlD && line === '')) throw new Interrupted(constants.signals.SIGINT)
        if (key === backspace || key === del) {
          if (line !== '' && !secret) io.stderr.write('\b \b')
          line = line.slice(0, -1)
        } else if (key >= ' ' && line.length < mostChars) {
          line += key
          if (!secret) io.stderr.write(key)
        }
      }
    } finally {
      io.setRaw(false)
      io.stderr.write('\n')
    }
  }

  return async (question, { secret = false } = {}) => {
    if (io.stdin.isTTY !== true) return pipedLine(question)
    io.stderr.write(question)
    return typedLine(secret)
  }
}
