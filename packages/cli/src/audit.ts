import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import type { Delta } from '@delta-agents/sdk'
import type { Command } from 'commander'
import { type Verdict, verifyChain } from './audit-chain.ts'
import { CliError, exitCodes, UsageError } from './failure.ts'
import { parseNumber, table } from './format.ts'
import { type Io, write } from './io.ts'

export interface AuditCommandsDeps {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
  exitWith(code: number): void
}

interface ListFlags {
  actor?: string
  action?: string
  target?: string
  limit: number
}

export function addAuditCommands({ io, leaf, delta, print, exitWith }: AuditCommandsDeps): void {
  leaf('list', 'what was done and refused, newest first')
    .alias('ls')
    .option('--actor <id>', 'only what this user, key or agent did')
    .option('--action <name>', 'only this operation, such as createSandbox')
    .option('--target <id>', 'only what was done to this')
    .option('--limit <n>', 'entries at most', parseNumber, 50)
    .action(async ({ limit, actor, action, target }: ListFlags, command: Command) => {
      const wanted = { ...(actor && { actor }), ...(action && { action }), ...(target && { target }) }
      const entries = []
      for await (const entry of delta(command).audit.list({ ...wanted, pageSize: Math.min(limit, 500) })) {
        entries.push(entry)
        if (entries.length >= limit) break
      }
      const rows = entries.map((entry) => [
        `${entry.seq}`,
        entry.at,
        entry.actor,
        entry.action,
        entry.target ?? '',
        entry.reason === null ? entry.outcome : `${entry.outcome}: ${entry.reason}`,
      ])
      print(command, entries, table(['NO', 'AT', 'WHO', 'WHAT', 'TO', 'OUTCOME'], rows))
    })

  leaf('export', 'the whole chain with its signed heads, as JSON lines on stdout').action(
    async (_: unknown, command: Command) => {
      for await (const chunk of await delta(command).audit.export()) await write(io.stdout, chunk)
    },
  )

  leaf('verify [file]', 'whether nothing of it was changed, removed, reordered or cut; of the server, or of an export')
    .option('--key <key>', 'the key that signs heads, as `delta audit key` printed it when it was trusted')
    .option('--heads <file>', 'signed heads that were kept elsewhere, as JSON lines; may be repeated', collect)
    .action(async (file: string | undefined, flags: { key?: string; heads?: string[] }, command: Command) => {
      const lines = file === undefined ? await exportLines(delta(command)) : fileLines(file)
      const verdict = await verifyChain(lines, {
        publicKey: checkedKey(flags.key),
        heads: await readHeads(flags.heads),
      })
      print(command, verdict, describe(verdict))
      if (verdict.fault) exitWith(exitCodes.failed)
    })

  leaf('key', 'the key that signs heads: keep it where the server is not').action(
    async (_: unknown, command: Command) => {
      const head = await delta(command).audit.head()
      print(command, head, `${head.publicKey}\n`)
    },
  )
}

function describe({ entries, signedSeq, signedAt, restores, fault }: Verdict): string {
  const signed =
    signedAt === undefined
      ? 'no head vouches for them yet'
      : `signed up to ${signedSeq} at ${new Date(signedAt).toISOString()}`
  const restored = restores.map(({ at, seq, givenUpSeq }) => {
    const what =
      givenUpSeq > seq
        ? `entries ${seq + 1} to ${givenUpSeq}, which had been signed, were given up`
        : 'nothing that had been signed was given up'
    return `A backup was restored at ${new Date(at).toISOString()}, up to entry ${seq}: ${what}\n`
  })
  const history = restored.join('')
  if (!fault) return `${entries} entries are as they were written; ${signed}\n${history}`
  const well =
    signedSeq === 0
      ? 'No signed head vouches for anything before it'
      : `All is well up to entry ${signedSeq}, ${signed}`
  return `${fault.told}\n${well}\n${history}`
}

async function exportLines(delta: Delta): Promise<AsyncIterable<string>> {
  const body = Readable.from(await delta.audit.export())
  return createInterface({ input: body, crlfDelay: Infinity })
}

async function* fileLines(file: string): AsyncGenerator<string, void, undefined> {
  try {
    yield* createInterface({ input: createReadStream(file), crlfDelay: Infinity })
  } catch (error) {
    throw cannotRead(file, error)
  }
}

async function readHeads(files: readonly string[] = []): Promise<string[]> {
  const texts = await Promise.all(
    files.map((file) =>
      readFile(file, 'utf8').catch((error: unknown) => {
        throw cannotRead(file, error)
      }),
    ),
  )
  return texts.flatMap((text) => text.split('\n'))
}

function cannotRead(file: string, error: unknown): CliError {
  const why = error instanceof Error ? error.message : String(error)
  return new CliError(`${file} can not be read: ${why}`, 'Name a file that `delta audit export` wrote.')
}

function checkedKey(key: string | undefined): string | undefined {
  if (key === undefined || /^[A-Za-z0-9_-]{43}$/.test(key)) return key
  throw new UsageError(`'${key}' is no key of heads. It has 43 letters and digits, as \`delta audit key\` prints them`)
}

function collect(file: string, before: string[] = []): string[] {
  return [...before, file]
}
