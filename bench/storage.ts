import { execFile, execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { compressLayer } from '../packages/server/src/storage/compress.ts'
import { type Figure, figure } from './figures.ts'

const megabyte = 1e6
const rounds = 5
const flatBytes = [10 * megabyte, 1_000 * megabyte, 10_000 * megabyte] as const
/** What a layer that is restored consists of. */
const repeatedBytes = 4 * 1024 * 1024

/** The layer of a tar beside `zstd -3` of the same file: with both digests, a durable file, and the server's own thread left free. */
export async function packing(): Promise<Figure[]> {
  const folder = mkdtempSync(join(import.meta.dirname, '../.build/bench-storage-'))
  try {
    const tar = join(folder, 'layer.tar')
    // A gigabyte of what a machine has installed.
    execFileSync('sh', ['-c', `tar -C / -cf - usr/lib usr/share usr/include 2>/dev/null | head -c 1000000000 > ${tar}`])
    const size = statSync(tar).size
    const samples = { own: [] as number[], rival: [] as number[] }
    for (let round = 0; round < rounds; round++) {
      samples.rival.push(await rateOf(size, async () => shell(`zstd -3 -q -c ${tar} > ${tar}.zst && sync ${tar}.zst`)))
      samples.own.push(
        await rateOf(size, async () => {
          const { path } = await compressLayer(createReadStream(tar, { highWaterMark: 1024 * 1024 }), { folder })
          rmSync(path)
        }),
      )
    }
    return [
      figure({
        name: 'packing a 1 GB layer',
        unit: 'MB/s',
        samples: samples.own,
        rival: { name: 'zstd -3 from the shell', samples: samples.rival },
        bar: '≥ 0.7 × rival',
        holds: ({ ratio }) => ratio !== null && ratio >= 0.7,
      }),
    ]
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The helper starts the server so, and with that of the environment. */
const asTheServer = ['--max-semi-space-size=1', '--no-parallel-scavenge']
const programMs = 300_000

/**
 * The memory of 10 GB beside that of 10 MB: packed, encrypted and sent to a service that takes everything, and fetched from one that says the same
 * 4 MiB again and again, verified and unpacked. No disk is in the way.
 */
export async function storageMemory(): Promise<Figure[]> {
  const folder = mkdtempSync(join(import.meta.dirname, '../.build/bench-storage-'))
  const frame = await framed(randomBytes(repeatedBytes), folder)
  const service = await takesEverything(frame.packed)
  const most = { save: [] as number[], restore: [] as number[] }
  const measure = async (what: keyof typeof most, ...args: string[]) => {
    const program = join(import.meta.dirname, 'storage.program.ts')
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [...asTheServer, program, what, service.url, ...args],
      {
        env: { ...process.env, MALLOC_MMAP_THRESHOLD_: '8388608', UV_THREADPOOL_SIZE: '16' },
        timeout: programMs,
      },
    )
    most[what].push(Number(stdout))
  }
  try {
    for (const bytes of flatBytes) {
      await measure('save', String(bytes), folder)
      const frames = Math.ceil(bytes / repeatedBytes)
      const [digest, diffId] = [digestOf(frame.packed, frames), digestOf(frame.plain, frames)]
      service.frames = frames
      await measure('restore', String(frames * repeatedBytes), digest, diffId)
    }
    const rows = [
      ['saving', most.save],
      ['restoring', most.restore],
    ] as const
    return rows.flatMap(([what, [least = 0, ...larger]]) =>
      larger.map((bytes, at) =>
        figure({
          name: `${what} ${flatBytes[at + 1]! / megabyte} MB instead of ${flatBytes[0] / megabyte} MB, ${what === 'saving' ? 'packed and encrypted' : 'verified and unpacked'}`,
          unit: 'MB more memory',
          samples: [(bytes - least) / megabyte],
          bar: '≤ 64 MB',
          holds: ({ p50 }) => p50 <= 64,
        }),
      ),
    )
  } finally {
    await service.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

async function framed(plain: Buffer, folder: string): Promise<{ plain: Buffer; packed: Buffer }> {
  const once = async function* (): AsyncGenerator<Uint8Array> {
    yield plain
  }
  const { path } = await compressLayer(once(), { folder })
  return { plain, packed: readFileSync(path) }
}

function digestOf(bytes: Buffer, times: number): string {
  const hash = createHash('sha256')
  for (let time = 0; time < times; time += 1) hash.update(bytes)
  return `sha256:${hash.digest('hex')}`
}

async function rateOf(bytes: number, act: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await act()
  return bytes / megabyte / ((performance.now() - startedAt) / 1000)
}

function shell(command: string): Promise<unknown> {
  return promisify(execFile)('sh', ['-c', command])
}

/** What speaks of S3 as much as a save and a restore need, and keeps nothing: each object is `frame`, `frames` times. */
async function takesEverything(frame: Buffer): Promise<{ url: string; frames: number; close(): Promise<void> }> {
  const server = createServer((request, answer) => {
    request.resume()
    request.on('end', () => {
      const { method, url = '' } = request
      if (method === 'HEAD') return answer.writeHead(404).end()
      const headers = { etag: '"taken"', 'content-type': 'application/xml' }
      if (method === 'GET' && !url.includes('?uploads') && url.includes('/sha256/')) {
        answer.writeHead(200, { ...headers, 'content-length': frame.length * service.frames })
        return Readable.from(repeated(frame, service.frames), { objectMode: false }).pipe(answer)
      }
      answer.writeHead(200, headers)
      if (method === 'GET') return answer.end('<ListMultipartUploadsResult/>')
      if (method === 'POST' && url.includes('uploads')) {
        return answer.end('<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>')
      }
      answer.end(
        method === 'POST' ? '<CompleteMultipartUploadResult><ETag>"taken"</ETag></CompleteMultipartUploadResult>' : '',
      )
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const service = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    frames: 0,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return service
}

function* repeated(bytes: Buffer, times: number): Generator<Buffer> {
  for (let time = 0; time < times; time += 1) yield bytes
}
