import { createHash, hash, randomBytes, scrypt } from 'node:crypto'
import { promisify } from 'node:util'
import { z } from 'zod'
import { DeltaError } from '../../kernel/errors.ts'
import type { Bytes } from '../../storage/blobs.ts'
import { createSeal } from '../../storage/encryption/seal.ts'

// A backup is a line that says what it is and the SHA-256 of the next, a line that lists its parts, and the parts, one right after the other. With a
// passphrase the whole of that is sealed behind a line that says how. docs/backup.md states this form.

const plainLine = /^delta backup ([0-9]{1,6}) ([0-9a-f]{64})$/
const sealedLine = /^delta backup ([0-9]{1,6}) sealed ([A-Za-z0-9_-]{22})$/
/** Of the form. One that this program does not know is refused. */
const version = 1
const firstLineBytes = 200
/** Some 200,000 blobs. */
export const manifestBytes = 32 * 1024 * 1024
const sealName = 'delta backup'
/** 64 MiB and a quarter of a second for each guess. */
const scryptCost = { N: 2 ** 16, r: 8, p: 1, maxmem: 128 * 1024 * 1024 }

const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/)
const countSchema = z.int().min(0)
const partSchema = z.strictObject({
  name: z.string().regex(/^(database|audit-heads|secrets|sha256:[0-9a-f]{64})$/),
  bytes: countSchema,
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
})

const manifestSchema = z.strictObject({
  createdAt: z.iso.datetime(),
  /** Of the program that made it. */
  server: z.string().max(100),
  /** Those that the database has been through. */
  migrations: z.array(z.string().max(200)).max(10_000),
  /** Rows of each table. */
  tables: z.record(z.string().regex(/^[a-z_][a-z0-9_]{0,62}$/), countSchema),
  /** Bytes of the database part when it is unpacked. */
  databaseBytes: countSchema,
  /** Says whether two installations have the same SECRET_KEY, and nothing else of it. */
  secretKeyId: z.string().max(64),
  /** What the database refers to in storage. Those that are no part of the backup must be in the storage of whoever restores it. */
  references: z.array(z.strictObject({ digest: digestSchema, size: countSchema })),
  /** Snapshots that were not saved to storage yet: their files are not in it. */
  unsaved: countSchema,
  parts: z.array(partSchema).min(1),
})
export type Manifest = z.output<typeof manifestSchema>
export type Part = Manifest['parts'][number]

export interface ArchiveSource {
  manifest: Manifest
  /** The bytes of each part, which are checked on their way. */
  open(part: Part): Bytes
}

export function archiveBytes({ manifest }: { manifest: Manifest }): number {
  return headOf(manifest).length + manifest.parts.reduce((sum, { bytes }) => sum + bytes, 0)
}

function headOf(manifest: Manifest): Buffer {
  const line = JSON.stringify(manifest)
  return Buffer.from(`delta backup ${version} ${hash('sha256', line)}\n${line}\n`)
}

export async function* writeArchive(source: ArchiveSource, passphrase?: string): Bytes {
  if (passphrase === undefined) return yield* writePlain(source)
  const salt = randomBytes(16)
  yield Buffer.from(`delta backup ${version} sealed ${salt.toString('base64url')}\n`)
  yield* createSeal(await keyOf(passphrase, salt)).seal(writePlain(source), sealName)
}

async function* writePlain({ manifest, open }: ArchiveSource): Bytes {
  yield headOf(manifest)
  for (const part of manifest.parts) yield* checked(open(part), part)
}

const derive = promisify<string, Buffer, number, typeof scryptCost, Buffer>(scrypt)

function keyOf(passphrase: string, salt: Buffer): Promise<Buffer> {
  return derive(passphrase.normalize('NFC'), salt, 32, scryptCost)
}

export interface ArchiveReader {
  manifest: Manifest
  /** In the order of the manifest; each must be read to its end before the next. Throws before the last bytes of one that is damaged. */
  parts(): AsyncIterable<{ part: Part; body: Bytes }>
}

/** Refuses what is no backup, or one of a later program, before anything else is done with it. */
export async function readArchive(source: Bytes, passphrase?: string): Promise<ArchiveReader> {
  const reader = createReader(source)
  const first = await reader.line(firstLineBytes)
  const salt = sealedLine.exec(first)
  if (salt) {
    refuseNewer(salt[1]!)
    if (passphrase === undefined) throw passphraseWrong('The backup is sealed')
    const key = await keyOf(passphrase, Buffer.from(salt[2]!, 'base64url'))
    const opened = createReader(unsealed(reader.rest(), key))
    return readPlain(opened, await opened.line(firstLineBytes))
  }
  return readPlain(reader, first)
}

async function readPlain(reader: Reader, first: string): Promise<ArchiveReader> {
  const [, number, sha256] = plainLine.exec(first) ?? []
  if (number === undefined) throw invalid('Its first line is not that of a backup')
  refuseNewer(number)
  const line = await reader.line(manifestBytes)
  if (hash('sha256', line) !== sha256) throw invalid('Its list of parts was changed')
  const manifest = manifestSchema.safeParse(parsed(line))
  if (!manifest.success) throw invalid(`Its list of parts is not valid at ${manifest.error.issues[0]!.path.join('.')}`)
  const { parts } = manifest.data
  if (new Set(parts.map(({ name }) => name)).size < parts.length) throw invalid('It lists a part twice')
  return {
    manifest: manifest.data,
    async *parts() {
      for (const part of parts) yield { part, body: checked(reader.exactly(part), part) }
      if (await reader.more()) throw invalid('Something follows its last part')
    },
  }
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

function refuseNewer(number: string): void {
  if (Number(number) === version) return
  throw new DeltaError('backup_too_new', `The backup has form ${number}, and this program knows form ${version}`)
}

/** As long as the part says and with its digest, or an error in place of its last bytes. */
async function* checked(source: Bytes, { name, bytes, sha256 }: Part): Bytes {
  const found = createHash('sha256')
  let count = 0
  let held: Uint8Array | undefined
  for await (const chunk of source) {
    if (held) yield held
    found.update(chunk)
    count += chunk.byteLength
    if (count > bytes) break
    held = chunk
  }
  if (count !== bytes) throw invalid(`The part ${name} has not the ${bytes} bytes it should have`)
  if (found.digest('hex') !== sha256) throw invalid(`The part ${name} was changed`)
  if (held) yield held
}

async function* unsealed(source: Bytes, key: Buffer): Bytes {
  try {
    yield* createSeal(key).open(source, sealName)
  } catch (error) {
    if (!(error instanceof DeltaError)) throw error
    if (error.code === 'storage_key_wrong') throw passphraseWrong('The passphrase is not that of the backup')
    throw error.code === 'blob_damaged' ? invalid('It was cut or changed after it was sealed') : error
  }
}

function passphraseWrong(message: string): DeltaError {
  return new DeltaError('backup_passphrase_wrong', message)
}

export function invalid(cause: string): DeltaError {
  return new DeltaError('backup_invalid', 'The backup can not be used, and nothing was changed', { cause })
}

type Reader = ReturnType<typeof createReader>

/** Bytes in the portions that are asked for. */
function createReader(source: Bytes) {
  const iterator = source[Symbol.asyncIterator]()
  let held: Uint8Array = new Uint8Array(0)

  async function next(): Promise<boolean> {
    while (held.byteLength === 0) {
      const { done, value } = await iterator.next()
      if (done) return false
      held = value
    }
    return true
  }

  return {
    more: next,
    async line(mostBytes: number): Promise<string> {
      const pieces: Uint8Array[] = []
      for (let length = 0; await next();) {
        const end = held.indexOf(0x0a)
        const piece = end === -1 ? held : held.subarray(0, end)
        length += piece.byteLength
        if (length > mostBytes) throw invalid('It begins with a line that is too long')
        // The source may write into the same memory again.
        pieces.push(Uint8Array.from(piece))
        held = held.subarray(end === -1 ? held.byteLength : end + 1)
        if (end !== -1) return Buffer.concat(pieces).toString('utf8')
      }
      throw invalid('It is cut within its first lines')
    },
    async *exactly({ name, bytes }: Part): Bytes {
      for (let left = bytes; left > 0;) {
        if (!(await next())) throw invalid(`It is cut within the part ${name}`)
        const portion = held.subarray(0, left)
        held = held.subarray(portion.byteLength)
        left -= portion.byteLength
        yield portion
      }
    },
    async *rest(): Bytes {
      while (await next()) {
        const portion = held
        held = new Uint8Array(0)
        yield portion
      }
    },
  }
}
