import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { systemClock } from '../../../kernel/clock.ts'
import type { S3Config } from '../../../kernel/config.ts'

const program = join(import.meta.dirname, '../../../../../../.build/seaweedfs/weed')
const bucket = 'delta-test'
const accessKeyId = 'AKIADELTATEST'
const secretAccessKey = 'a-secret-of-the-tests'
const startMs = 60_000

export interface S3Server {
  url: string
  /** What a store needs to use it, below a prefix of its own. */
  config(prefix: string, endpoint?: string): S3Config
  objects(prefix: string): Promise<{ key: string; bytes: Buffer }[]>
  write(key: string, bytes: Buffer): Promise<void>
  remove(key: string): Promise<void>
  /** Keys of uploads that have not ended. */
  uploads(prefix: string): Promise<string[]>
  stop(): Promise<void>
}

/** A real server, SeaweedFS: it checks signatures, MD5 and SHA-256 of what arrives, and the ETags of the parts of an upload. */
export async function startS3Server(): Promise<S3Server> {
  if (!existsSync(program)) throw new Error(`${program} is missing: \`node scripts/setup.mjs test\` fetches it`)
  const folder = mkdtempSync(join(tmpdir(), 'delta-s3-'))
  const identity = { name: 'test', credentials: [{ accessKey: accessKeyId, secretKey: secretAccessKey }] }
  const actions = ['Admin', 'Read', 'Write', 'List', 'Tagging']
  writeFileSync(join(folder, 's3.json'), JSON.stringify({ identities: [{ ...identity, actions }] }))
  for (let tries = 1; ; tries++) {
    const started = await start(folder).catch((error: unknown) => error as Error)
    if (!(started instanceof Error)) return started
    // Another program may have taken one of the ports.
    if (tries === 3) throw started
  }
}

async function start(folder: string): Promise<S3Server> {
  const first = 12_000 + (process.pid % 700) * 10
  const port = (number: number) => String(first + number)
  const url = `http://127.0.0.1:${port(6)}`
  // Each part of the server has a second port, for itself.
  const ports = ['master', 'volume', 'filer', 's3'].flatMap((part, at) => [
    `-${part}.port=${port(2 * at)}`,
    `-${part}.port.grpc=${port(2 * at + 1)}`,
  ])
  const own = ['server', `-dir=${folder}`, '-ip=127.0.0.1', '-ip.bind=127.0.0.1', ...ports]
  const small = ['-master.electionTimeout=1s', '-master.volumeSizeLimitMB=64', '-volume.max=30']
  const s3 = ['-filer', '-s3', `-s3.config=${join(folder, 's3.json')}`]
  const without = ['-master.telemetry=false', '-s3.port.iceberg=0', '-s3.port.lance=0', '-s3.iam=false']
  // Before its command: it logs to the common temporary folder otherwise.
  const child = spawn(program, [`-logdir=${folder}`, ...own, ...small, ...s3, ...without], {
    stdio: 'ignore',
    cwd: folder,
  })
  const kill = () => child.kill('SIGKILL')
  process.once('exit', kill)
  const client = new S3Client({
    region: 'us-east-1',
    endpoint: url,
    forcePathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    maxAttempts: 1,
  })
  async function stop() {
    client.destroy()
    process.off('exit', kill)
    const ended = new Promise((resolve) => child.once('exit', resolve))
    if (child.exitCode === null && child.signalCode === null && kill()) await ended
    rmSync(folder, { recursive: true, force: true })
    // Sockets that it names itself, one for each port, and leaves there when it is killed.
    const sockets = readdirSync('/tmp').filter((name) => name.startsWith('seaweedfs-'))
    const ends = Array.from({ length: 8 }, (_, number) => `-${port(number)}.sock`)
    for (const name of sockets.filter((socket) => ends.some((end) => socket.endsWith(end)))) rmSync(join('/tmp', name))
  }
  await untilReady(client, () => child.exitCode !== null).catch(async (error: unknown) => {
    await stop()
    throw error
  })

  const config = (prefix: string, endpoint = url): S3Config => ({
    bucket,
    prefix,
    endpoint,
    region: 'us-east-1',
    accessKeyId,
    secretAccessKey,
    sessionToken: undefined,
    pathStyle: true,
    sse: undefined,
  })

  async function keys(prefix: string): Promise<string[]> {
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix }))
    return Contents.map(({ Key }) => Key!)
  }

  return {
    url,
    config,
    async objects(prefix) {
      return Promise.all(
        (await keys(prefix)).map(async (key) => {
          const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }))
          return { key, bytes: Buffer.from(await Body!.transformToByteArray()) }
        }),
      )
    },
    async write(key, bytes) {
      await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes }))
    },
    async remove(key) {
      await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }))
    },
    async uploads(prefix) {
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: prefix }))
      return Uploads.map(({ Key }) => Key!)
    },
    stop,
  }
}

async function untilReady(client: S3Client, isOver: () => boolean): Promise<void> {
  for (const untilMs = systemClock.monotonic() + startMs; ;) {
    try {
      await client.send(new CreateBucketCommand({ Bucket: bucket }))
      // A bucket is made before there is room for objects.
      await client.send(new PutObjectCommand({ Bucket: bucket, Key: 'ready', Body: Buffer.from('ready') }))
      return
    } catch (error) {
      if (error instanceof Error && error.name === 'BucketAlreadyOwnedByYou') {
        const put = new PutObjectCommand({ Bucket: bucket, Key: 'ready', Body: Buffer.from('ready') })
        if (await client.send(put).catch(() => undefined)) return
      }
      if (isOver() || systemClock.monotonic() > untilMs) throw error
      await systemClock.sleep(100)
    }
  }
}
