import { appendFileSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock } from '../kernel/clock.ts'

export interface LogLine {
  sequence: number
  at: number
  /** `step`: what is done; `stdout`, `stderr`: what a command says; `note`: what is done otherwise than asked. */
  kind: 'step' | 'stdout' | 'stderr' | 'note'
  text: string
}

/** A build that says more goes on in silence. */
const mostBytes = 8 * 1024 * 1024
const lineChars = 8_192
/** What all logs of one account take, at most: its oldest make room. */
const accountBytes = 128 * 1024 * 1024

export interface BuildLog {
  add(kind: LogLine['kind'], text: string): void
  /** No more will come. */
  close(): void
}

export type BuildLogs = ReturnType<typeof createBuildLogs>

/** What builds said, in a file each, and live for those who watch. */
export function createBuildLogs({ folder, clock }: { folder: string; clock: Clock }) {
  const live = new Map<string, { lines: LogLine[]; bytes: number; watchers: Set<() => void>; isOver: boolean }>()
  const fileOf = (templateId: string) => join(folder, `${templateId}.jsonl`)

  function open(templateId: string): BuildLog {
    mkdirSync(folder, { recursive: true })
    const own = { lines: [] as LogLine[], bytes: 0, watchers: new Set<() => void>(), isOver: false }
    live.set(templateId, own)
    const wake = (): void => {
      for (const watcher of own.watchers) watcher()
    }
    const write = (kind: LogLine['kind'], text: string): void => {
      const line = { sequence: own.lines.length + 1, at: clock.now(), kind, text }
      const json = `${JSON.stringify(line)}\n`
      own.bytes += json.length
      own.lines.push(line)
      appendFileSync(fileOf(templateId), json)
    }
    return {
      add(kind, text) {
        if (own.isOver || own.bytes > mostBytes) return
        for (let at = 0; at < text.length || at === 0; at += lineChars) write(kind, text.slice(at, at + lineChars))
        if (own.bytes > mostBytes) write('note', 'The rest of the output is left out')
        wake()
      },
      close() {
        own.isOver = true
        wake()
        live.delete(templateId)
      },
    }
  }

  /** Lines after `after`, and those to come until the build ends. */
  async function* follow(templateId: string, after: number, signal: AbortSignal): AsyncGenerator<LogLine> {
    const own = live.get(templateId)
    if (!own) {
      yield* read(templateId).filter(({ sequence }) => sequence > after)
      return
    }
    let next = after
    while (!signal.aborted) {
      while (next < own.lines.length && !signal.aborted) yield own.lines[next++]!
      if (own.isOver || signal.aborted) return
      await new Promise<void>((resolve) => {
        const done = (): void => {
          own.watchers.delete(done)
          signal.removeEventListener('abort', done)
          resolve()
        }
        own.watchers.add(done)
        signal.addEventListener('abort', done, { once: true })
      })
    }
  }

  function read(templateId: string): LogLine[] {
    try {
      const lines = readFileSync(fileOf(templateId), 'utf8').split('\n')
      // The last one may have been cut by a crash.
      return lines.slice(0, -1).map((line) => JSON.parse(line) as LogLine)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw error
    }
  }

  const remove = (templateId: string): void => rmSync(fileOf(templateId), { force: true })

  /** Leaves room for one more beside those of an account's templates, which come newest first. What is being written stays. */
  function makeRoom(templateIds: readonly string[], most = accountBytes): void {
    let bytes = mostBytes
    for (const templateId of templateIds) {
      bytes += live.has(templateId) ? mostBytes : (statSync(fileOf(templateId), { throwIfNoEntry: false })?.size ?? 0)
      if (bytes > most && !live.has(templateId)) remove(templateId)
    }
  }

  return { open, follow, remove, makeRoom }
}
