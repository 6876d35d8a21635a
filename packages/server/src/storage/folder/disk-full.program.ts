// Run in a mount namespace of its own on a tiny file system: tells as JSON what a full disk does to a folder.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { DeltaError } from '../../kernel/errors.ts'
import { createBlobStore } from '../blob-store.ts'
import { compressLayer } from '../compress.ts'
import { blobOf, chunksOf, collect, digestOf, someBytes } from '../conformance.ts'
import { openFolder } from './folder.ts'

const path = process.argv[2]!
const store = createBlobStore({ objects: await openFolder({ path }) })
const kept = someBytes(200_000)
const tooMuch = someBytes(3_000_000, 2)
const codeOf = (error: unknown) => (error instanceof DeltaError ? error.code : String(error))

await store.put(blobOf(kept))
const full = await store.put(blobOf(tooMuch)).catch(codeOf)
const packed = await compressLayer(chunksOf(tooMuch, 100_000), { folder: join(path, 'unfinished') }).catch(codeOf)
const leftovers = readdirSync(join(path, 'unfinished'))
const isSeen = await store.has(digestOf(tooMuch))
const isKept = (await collect(store.get(digestOf(kept)))).equals(kept)
await store.remove(digestOf(kept))
const after = await store.put(blobOf(someBytes(500_000, 3)))
process.stdout.write(JSON.stringify({ full, packed, leftovers, isSeen, isKept, after }))
