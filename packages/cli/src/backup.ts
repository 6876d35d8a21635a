import { createReadStream } from 'node:fs'
import { open, readFile, rename, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Delta, DeltaConnectionError, findApiKey, type StagedRestore } from '@delta-agents/sdk'
import type { Command } from 'commander'
import { createAsk } from './ask.ts'
import { CliError, UsageError } from './failure.ts'
import { showBytes } from './format.ts'
import type { Io } from './io.ts'
import { counted, createProgress } from './progress.ts'

export interface BackupCommandsDeps {
  io: Io
  program: Command
  leaf(parent: Command, usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

interface BackupFlags {
  passphrase?: boolean
  withSecrets?: boolean
}

interface RestoreFlags {
  passphrase?: boolean
  replace?: boolean
}

/** The server is back within seconds; a large database may take minutes. */
const restartMs = 600_000
const lookMs = 200
const leastChars = 12

export function addBackupCommands({ io, program, leaf, delta, print }: BackupCommandsDeps): void {
  /** Whoever is logged in: this is done by whoever has the data folder. */
  const operator = async (command: Command): Promise<Delta> => {
    const { url } = delta(command)
    return new Delta({ url, apiKey: await findApiKey(url) })
  }

  leaf(program, 'backup <file>', 'all of the platform that can not be made again, as one file, while it goes on')
    .option('--passphrase', 'seal it; the passphrase is asked for, or taken from stdin')
    .option('--with-secrets', 'with SECRET_KEY in it')
    .action(async (file: string, { passphrase, withSecrets }: BackupFlags, command: Command) => {
      const { backups } = await operator(command)
      const sealed = passphrase ? { passphrase: await askPassphrase(io) } : {}
      const { body, totalBytes, unsaved } = await backups.create({ ...sealed, secrets: withSecrets === true })
      const progress = createProgress(io, { label: file, totalBytes })
      const bytes = await keep(file, counted(body, progress), totalBytes)
      progress.done()
      print(command, { file, bytes, unsaved }, `${file}: ${showBytes(bytes)}\n`)
      for (const word of wordsOf({ unsaved, sealed: passphrase === true, secrets: withSecrets === true })) {
        io.stderr.write(`${word}\n`)
      }
    })

  leaf(program, 'restore <file>', 'put a backup in the place of an empty platform, or of this one')
    .option('--passphrase', 'what it was sealed with is asked for, or taken from stdin')
    .option('--replace', 'give up all that this platform holds')
    .action(async (file: string, { passphrase, replace }: RestoreFlags, command: Command) => {
      const client = await operator(command)
      const { size } = await stat(file)
      const sealed = passphrase ? { passphrase: await createAsk(io)('Passphrase: ', { secret: true }) } : {}
      const progress = createProgress(io, { label: file, totalBytes: size })
      const source = counted(createReadStream(file), progress)
      const staged = await client.backups
        .stage(source, { ...sealed, ...(replace && { replace }) })
        .catch((error: unknown) => {
          progress.fail()
          throw error
        })
      progress.done()
      const keyWord = await provideSecretKey(io, staged)
      await client.backups.commit(staged.id)
      await untilRestored(client, staged.id)
      const { id, backupAt, rows, unsaved } = staged
      print(command, { id, backupAt, rows, unsaved }, `Restored to ${backupAt}: ${rows} rows\n`)
      if (keyWord) io.stderr.write(`${keyWord}\n`)
    })
}

async function askPassphrase(io: Io): Promise<string> {
  const ask = createAsk(io)
  const passphrase = await ask('Passphrase: ', { secret: true })
  if (passphrase.length < leastChars) throw new UsageError(`A passphrase has at least ${leastChars} characters`)
  if (io.stdin.isTTY && (await ask('Again: ', { secret: true })) !== passphrase) {
    throw new UsageError('The two passphrases are not the same')
  }
  return passphrase
}

/** Under its name only when it is whole and on the disk. */
async function keep(file: string, body: AsyncIterable<Uint8Array>, totalBytes: number | undefined): Promise<number> {
  const draft = `${file}.part`
  const handle = await open(draft, 'w', 0o600)
  let bytes = 0
  try {
    for await (const chunk of body) {
      for (let at = 0; at < chunk.length;) at += (await handle.write(chunk, at)).bytesWritten
      bytes += chunk.length
    }
    if (totalBytes !== undefined && bytes !== totalBytes) {
      throw new CliError(`The server sent ${bytes} of ${totalBytes} bytes`, 'Look at its log, and try again.')
    }
    await handle.sync()
  } catch (error) {
    await rm(draft, { force: true })
    throw error
  } finally {
    await handle.close()
  }
  await rename(draft, file)
  return bytes
}

function wordsOf({ unsaved, sealed, secrets }: { unsaved: number; sealed: boolean; secrets: boolean }): string[] {
  return [
    ...(unsaved > 0
      ? [
          `warning: ${unsaved} snapshots were not in storage yet, and their files are not in it: \`delta workspace save\` waits for them.`,
        ]
      : []),
    ...(secrets && !sealed
      ? [
          'warning: SECRET_KEY is in it in clear. Whoever reads the file can be anybody on the platform; --passphrase seals it.',
        ]
      : []),
    ...(secrets
      ? []
      : [
          'SECRET_KEY is not in it. Keep the data folder’s secret-key elsewhere: without it second factors can not be read after a restore.',
        ]),
  ]
}

/** Where the backup brings its own and this machine has another. The server reads it when it starts anew. */
async function provideSecretKey(io: Io, { secretKey, secrets }: StagedRestore): Promise<string | undefined> {
  if (secretKey === 'same') return undefined
  const lost =
    'warning: this platform has another SECRET_KEY than the backup: everybody logs in again, second factors and kept mails can not be read, and what the audit log had signed is not vouched for.'
  if (!secrets) return lost
  const path = join(resolve(io.env['DELTA_DATA_DIR'] ?? 'data'), 'secret-key')
  const before = await readFile(path, 'utf8').catch(() => undefined)
  // The server takes no other from there.
  if (before === undefined || !/^[0-9a-f]{64}$/.test(secrets.secretKey)) {
    return `${lost}\nThe key is in the backup, and was not put into place: set SECRET_KEY to it where the server is configured.`
  }
  await writeSecret(`${path}.before-restore`, before)
  await writeSecret(path, `${secrets.secretKey}\n`)
  return `The SECRET_KEY of the backup is in place; the one before is ${path}.before-restore`
}

async function writeSecret(path: string, text: string): Promise<void> {
  const draft = `${path}.draft`
  const handle = await open(draft, 'w', 0o600)
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(draft, path)
}

async function untilRestored({ backups }: Delta, id: string): Promise<void> {
  const untilMs = performance.now() + restartMs
  while (performance.now() < untilMs) {
    await sleep(lookMs)
    const found = await backups.list().catch((error: unknown) => {
      if (error instanceof DeltaConnectionError) return []
      throw error
    })
    if (found.some((one) => one.id === id && one.state === 'done')) return
  }
  throw new CliError('The server has not come back', 'Look at its log: it says what it does, or what went wrong.')
}
