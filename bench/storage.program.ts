// A layer of so many bytes, packed and sent to a bucket, encrypted; or fetched from there and unpacked. Says the most memory that took.
// node bench/storage.program.ts save ENDPOINT BYTES FOLDER
// node bench/storage.program.ts restore ENDPOINT BYTES DIGEST DIFF-ID
import { createHash, randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { createBlobStore } from '../packages/server/src/storage/blob-store.ts'
import { compressLayer } from '../packages/server/src/storage/compress.ts'
import { createSeal } from '../packages/server/src/storage/encryption/seal.ts'
import { expandLayer } from '../packages/server/src/storage/expand.ts'
import type { Digest } from '../packages/server/src/storage/blobs.ts'
import { openS3 } from '../packages/server/src/storage/s3/s3.ts'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import { silentLogger } from '../packages/server/src/kernel/log.ts'

const [what, endpoint] = [process.argv[2]!, process.argv[3]!]
const size = Number(process.argv[4])
const objects = openS3({
  config: {
    bucket: 'bench',
    prefix: '',
    endpoint,
    region: 'us-east-1',
    accessKeyId: 'bench',
    secretAccessKey: 'bench',
    sessionToken: undefined,
    pathStyle: true,
    sse: undefined,
  },
  clock: systemClock,
  log: silentLogger,
})

async function save(folder: string): Promise<void> {
  const block = randomBytes(1024 * 1024)
  const content = async function* (): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < size; at += block.length) yield block.subarray(0, Math.min(block.length, size - at))
  }
  const hash = createHash('sha256')
  for await (const chunk of content()) hash.update(chunk)
  const store = createBlobStore({ objects, cipher: createSeal(randomBytes(32)) })
  const { path } = await compressLayer(content(), { folder })
  await rm(path)
  await store.put({ digest: `sha256:${hash.digest('hex')}`, size, open: content })
  await store.close()
}

async function restore(digest: Digest, diffId: Digest): Promise<void> {
  const store = createBlobStore({ objects })
  const mediaType = 'application/vnd.oci.image.layer.v1.tar+zstd'
  let bytes = 0
  for await (const chunk of expandLayer(store.get(digest), { mediaType, diffId, maxBytes: size })) bytes += chunk.length
  if (bytes !== size) throw new Error(`${bytes} bytes came instead of ${size}`)
  await store.close()
}

if (what === 'save') await save(process.argv[5]!)
else await restore(process.argv[5] as Digest, process.argv[6] as Digest)
process.stdout.write(`${process.resourceUsage().maxRSS * 1024}\n`)
