import { createHash } from 'node:crypto'
import { connect } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../kernel/clock.ts'
import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { parseChallenge } from './challenge.ts'
import { createRegistry, digestOf, isTokenServiceOf } from './client.ts'
import type { Credentials, PullOptions, RegistrySetting } from './client.ts'
import type { ConnectTo } from './http.ts'
import { parseReference, referenceText } from './reference.ts'
import { startRegistryPeer } from './testing.ts'
import type { PeerImage, RegistryPeer } from './testing.ts'

const platform = `linux/${process.arch === 'arm64' ? 'arm64' : 'amd64'}`
const peers: RegistryPeer[] = []
afterEach(async () => {
  await Promise.all(peers.splice(0).map((peer) => peer.close()))
})

async function startPeer(): Promise<RegistryPeer> {
  const peer = await startRegistryPeer()
  peers.push(peer)
  return peer
}

/** Sleeps pass at once, and are remembered. */
function hastyClock(): Clock & { slept: number[] } {
  const slept: number[] = []
  return {
    ...systemClock,
    slept,
    sleep: (durationMs, signal) => {
      slept.push(durationMs)
      return systemClock.sleep(0, signal)
    },
  }
}

/** As the egress guard does it: not a public address. */
const refuseAll: ConnectTo = () =>
  Promise.reject(Object.assign(new Error('it leads to an address that is not public'), { outcome: 'refused' }))
const connectAll: ConnectTo = ({ host, port }, signal) =>
  new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal })
    socket.once('connect', () => resolve(socket)).once('error', reject)
  })

interface Pulling {
  listed?: RegistrySetting[]
  credentials?: Credentials & { registry?: string }
  reference?: string
  connect?: ConnectTo
}

function pull(peer: RegistryPeer, { listed, credentials, reference, connect: to = refuseAll }: Pulling = {}) {
  const clock = hastyClock()
  const registries = listed ?? [{ host: peer.host, scheme: 'http' as const }]
  const registry = createRegistry({ connect: to, connectListed: connectAll, registries, clock })
  const parsed = parseReference(reference ?? `${peer.host}/team/app:1`)
  if (!parsed.ok) throw new Error(parsed.reason)
  const notes: string[] = []
  const options: PullOptions = {
    platform,
    ...(credentials && { account: { registry: peer.host, ...credentials } }),
    signal: AbortSignal.timeout(20_000),
    onNote: (note) => notes.push(note),
  }
  return { image: registry.open(parsed.reference, options), clock, notes }
}

const layerTar = Buffer.from('not really a tar, which is no business of the client '.repeat(2_000))
const simple: PeerImage = {
  repository: 'team/app',
  tag: '1',
  layers: [
    { tar: layerTar, compression: 'gzip' },
    { tar: Buffer.from('second'), compression: 'zstd' },
  ],
  config: { Env: ['A=1'], WorkingDir: '/app' },
}

async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = []
  for await (const chunk of chunks) all.push(chunk)
  return Buffer.concat(all)
}

async function refusal(promise: Promise<unknown>): Promise<DeltaError> {
  const error = await promise.then(
    () => expect.unreachable('it succeeded'),
    (cause: unknown) => cause,
  )
  expect(error).toBeInstanceOf(DeltaError)
  return error as DeltaError
}

describe('references', () => {
  const digest = `sha256:${'a'.repeat(64)}`
  test.each([
    ['alpine', 'docker.io/library/alpine:latest'],
    ['user/app:2', 'docker.io/user/app:2'],
    ['localhost:5000/a', 'localhost:5000/a:latest'],
    ['localhost/a', 'localhost/a:latest'],
    ['ghcr.io/a/b/c_d@' + digest, `ghcr.io/a/b/c_d@${digest}`],
    ['a:1@' + digest, `docker.io/library/a:1@${digest}`],
    ['INDEX.docker.io/x', 'docker.io/library/x:latest'],
    ['registry-1.docker.io/x', 'docker.io/library/x:latest'],
  ])('%s is %s', (text, whole) => {
    const parsed = parseReference(text)
    expect(parsed.ok && referenceText(parsed.reference)).toBe(whole)
    const again = parseReference(whole)
    expect(again.ok && referenceText(again.reference)).toBe(whole)
  })

  test.each([
    '',
    'A/b',
    'a//b',
    'a:',
    'a b',
    '../x',
    'a@sha256:1',
    'a@md5:1',
    'x.y:99999/a',
    'h_x.y/a',
    'a'.repeat(600),
    'http://a/b',
  ])('%j is none', (text) => {
    expect(parseReference(text).ok).toBe(false)
  })
})

describe('challenges', () => {
  test('a token is preferred, and quotes and commas are read', () => {
    expect(
      parseChallenge(
        'Basic realm="a, b", Bearer realm="https://r/t",service="s \\"x\\"",scope="repository:a:pull,push"',
      ),
    ).toEqual({
      scheme: 'bearer',
      realm: 'https://r/t',
      service: 's "x"',
      scope: 'repository:a:pull,push',
    })
    expect(parseChallenge('basic REALM=x')).toEqual({ scheme: 'basic' })
    expect(parseChallenge('Negotiate')).toBeUndefined()
    expect(parseChallenge(undefined)).toBeUndefined()
  })
})

describe('a pull', () => {
  test('reads the documents, and layers when they are asked for', async () => {
    const peer = await startPeer()
    const pushed = peer.push(simple)
    const image = await pull(peer).image
    expect(image.digest).toBe(pushed.manifestDigest)
    expect(image.manifestText).toBe(pushed.manifestText)
    expect(image.document.config).toMatchObject({ Env: ['A=1'], WorkingDir: '/app' })
    expect(peer.requests.filter((line) => line.includes('/blobs/'))).toHaveLength(1)
    for (const layer of image.layers) expect(digestOf(await bytesOf(layer.open(0)))).toBe(layer.digest)
    expect(image.layers[0]?.diffId).toBe(`sha256:${createHash('sha256').update(layerTar).digest('hex')}`)
    const whole = await bytesOf(image.layers[0]!.open(0))
    expect(await bytesOf(image.layers[0]!.open(10))).toEqual(whole.subarray(10))
  })

  test.each([true, false])('takes this machine’s platform out of a list (docker: %s)', async (docker) => {
    const peer = await startPeer()
    const layers = [{ tar: layerTar, compression: 'gzip' as const }]
    const own = { os: 'linux', architecture: platform.split('/')[1]! }
    const pushed = peer.push({
      ...simple,
      layers,
      docker,
      index: [{ os: 'windows', architecture: 'amd64' }, { os: 'linux', architecture: 's390x' }, own],
    })
    expect((await pull(peer).image).digest).toBe(pushed.manifestDigest)
    peer.push({ ...simple, tag: '2', index: [{ os: 'linux', architecture: 's390x' }] })
    const refused = await refusal(pull(peer, { reference: `${peer.host}/team/app:2` }).image)
    expect(refused).toMatchObject({ code: 'image_invalid', cause: expect.stringContaining('only for linux/s390x') })
  })

  test('by digest takes nothing else, and a wrong platform is refused without a list too', async () => {
    const peer = await startPeer()
    const { manifestDigest } = peer.push(simple)
    const reference = `${peer.host}/team/app@${manifestDigest}`
    expect((await pull(peer, { reference }).image).digest).toBe(manifestDigest)
    peer.behaviour.corrupt = (digest, bytes) =>
      digest === manifestDigest ? Buffer.concat([bytes, Buffer.from(' ')]) : bytes
    expect(await refusal(pull(peer, { reference }).image)).toMatchObject({
      code: 'image_invalid',
      cause: expect.stringContaining('has the digest'),
    })
    const other = await startPeer()
    other.push({ ...simple, platform: { os: 'linux', architecture: 's390x' } })
    expect((await refusal(pull(other).image)).cause).toMatch(/is for linux\/s390x/)
  })

  test('gets a token, and tells its password only where the tokens are its registry’s', async () => {
    const peer = await startPeer()
    peer.push(simple)
    peer.behaviour.auth = 'bearer'
    await pull(peer).image
    expect(peer.requests).toContainEqual(
      expect.stringContaining('/token?service=peer&scope=repository%3Ateam%2Fapp%3Apull'),
    )
    peer.behaviour.account = { username: 'me', password: 'secret' }
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'registry_unauthorized' })
    await pull(peer, { credentials: { username: 'me', password: 'secret' } }).image

    const thief = await startPeer()
    peer.behaviour.realm = `http://localhost:${thief.host.split(':')[1]}/token`
    const listed = [
      { host: peer.host, scheme: 'http' as const },
      { host: `localhost:${thief.host.split(':')[1]}`, scheme: 'http' as const },
    ]
    await refusal(pull(peer, { credentials: { username: 'me', password: 'secret' }, listed }).image)
    expect(thief.requests.join()).not.toMatch(/Basic/)
  })

  test('tells a password to the registry it is for, and to no other', async () => {
    const peer = await startPeer()
    peer.push(simple)
    peer.behaviour.auth = 'basic'
    peer.behaviour.account = { username: 'me', password: 'secret' }
    const credentials = { ...peer.behaviour.account, registry: 'other.example' }
    expect(await refusal(pull(peer, { credentials }).image)).toMatchObject({ code: 'registry_unauthorized' })
    expect(peer.requests.join()).not.toMatch(/Basic/)
  })

  test.each([
    ['https://registry-1.docker.io', 'https://auth.docker.io/token', true],
    ['https://registry.gitlab.com', 'https://gitlab.com/jwt/auth', true],
    ['https://registry.example.com:5000', 'https://registry.example.com:5001/token', true],
    ['http://registry.internal:5000', 'http://registry.internal:5000/token', true],
    ['http://registry.internal:5000', 'http://registry.internal:5001/token', false],
    ['http://registry.internal:5000', 'https://registry.internal/token', false],
    ['https://registry.example.com', 'http://registry.example.com/token', false],
    ['https://registry.example.com', 'https://example.com:8443/token', false],
    ['https://registry.example.com', 'https://registry.example.com.evil.net/token', false],
    ['https://registry.example.com', 'https://evilexample.com/token', false],
    ['https://ghcr.io', 'https://evil.io/token', false],
    ['https://firm.co.uk', 'https://evil.co.uk/token', false],
    ['https://mine.azurecr.io', 'https://evil.azurecr.io/token', false],
    ['https://10.1.2.3', 'https://10.1.2.4/token', false],
  ])('the tokens of %s may come from %s: %s', (registry, service, may) => {
    expect(isTokenServiceOf(new URL(registry), new URL(service))).toBe(may)
  })

  test('logs in with the operator’s or the caller’s password', async () => {
    const peer = await startPeer()
    peer.push(simple)
    peer.behaviour.auth = 'basic'
    peer.behaviour.account = { username: 'me', password: 'p:w' }
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'registry_unauthorized' })
    await pull(peer, { credentials: { username: 'me', password: 'p:w' } }).image
    await pull(peer, {
      listed: [{ host: peer.host, scheme: 'http', credentials: { username: 'me', password: 'p:w' } }],
    }).image
    const wrong = await refusal(pull(peer, { credentials: { username: 'me', password: 'x' } }).image)
    expect(wrong).toMatchObject({ code: 'registry_unauthorized' })
    expect(JSON.stringify(wrong.toBody('r'))).not.toMatch(/p:w/)
  })

  test('follows blobs elsewhere without what lets it in here', async () => {
    const peer = await startPeer()
    const store = await startPeer()
    peer.push(simple)
    store.push(simple)
    peer.behaviour.auth = 'basic'
    peer.behaviour.account = { username: 'me', password: 'secret' }
    peer.behaviour.redirectTo = `http://${store.host}`
    const listed: RegistrySetting[] = [
      { host: peer.host, scheme: 'http' },
      { host: store.host, scheme: 'http' },
    ]
    const image = await pull(peer, { credentials: peer.behaviour.account, listed }).image
    expect(digestOf(await bytesOf(image.layers[0]!.open(0)))).toBe(image.layers[0]!.digest)
    expect(store.requests.length).toBeGreaterThan(1)
    expect(store.requests.join()).not.toMatch(/Basic/)
  })

  test('goes to no address that is not public, by reference, redirect or realm', async () => {
    const peer = await startPeer()
    const inside = await startPeer()
    peer.push(simple)
    const unlisted = await refusal(pull(peer, { listed: [{ host: 'other.example', scheme: 'http' }] }).image)
    expect(unlisted).toMatchObject({
      code: 'registry_unreachable',
      cause: expect.stringContaining('not public'),
    })
    peer.behaviour.redirectTo = `http://${inside.host}`
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'registry_unreachable' })
    peer.behaviour.redirectTo = undefined
    peer.behaviour.auth = 'bearer'
    peer.behaviour.realm = `http://${inside.host}/token`
    expect((await refusal(pull(peer).image)).code).toMatch(/registry_un/)
    expect(inside.requests).toEqual([])
  })

  test('waits as long as it is told to, not for ever', async () => {
    const peer = await startPeer()
    peer.push(simple)
    Object.assign(peer.behaviour, { limited: 2, retryAfter: '7' })
    const { image, clock, notes } = pull(peer)
    await image
    expect(clock.slept).toEqual([7_000, 7_000])
    expect(notes[0]).toMatch(/limits requests; trying again in 7 s/)
    Object.assign(peer.behaviour, { limited: 1_000, retryAfter: '86400' })
    expect(await refusal(pull(peer).image)).toMatchObject({
      code: 'registry_failed',
      context: { retryAfterMs: 86_400_000 },
    })
    const { retryAfter: _, ...rest } = peer.behaviour
    peer.behaviour.retryAfter = new Date(Date.now() + 3_600_000).toUTCString()
    expect(rest.limited).toBe(1_000)
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'registry_failed' })
  })

  test('tries again after 5xx, and gives up in the end', async () => {
    const peer = await startPeer()
    peer.push(simple)
    peer.behaviour.failing = 3
    await pull(peer).image
    peer.behaviour.failing = 1_000
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'registry_failed', cause: 'it answered 503' })
  })

  test.each([false, true])('goes on where a cut connection ended (a registry without ranges: %s)', async (noRanges) => {
    const peer = await startPeer()
    const random = Buffer.from(Array.from({ length: 200_000 }, (_, index) => (index * 7919) % 251))
    peer.push({ ...simple, layers: [{ tar: random, compression: 'none' }] })
    const image = await pull(peer).image
    Object.assign(peer.behaviour, { cutAfter: 64 * 1024, noRanges, cuts: 3 })
    expect((await bytesOf(image.layers[0]!.open(0))).equals(random)).toBe(true)
    expect(peer.requests.filter((line) => line.includes('bytes='))).toHaveLength(3)
  })

  test('a registry that is cut at the same byte for ever is given up', async () => {
    const peer = await startPeer()
    peer.push({ ...simple, layers: [{ tar: layerTar, compression: 'none' }] })
    const image = await pull(peer).image
    Object.assign(peer.behaviour, { cutAfter: 100, noRanges: true })
    expect(await refusal(bytesOf(image.layers[0]!.open(0)))).toMatchObject({ code: 'registry_unreachable' })
  })

  test('ends when it is canceled', async () => {
    const peer = await startPeer()
    peer.push(simple)
    const stopped = new AbortController()
    const registry = createRegistry({
      connect: refuseAll,
      connectListed: connectAll,
      registries: [{ host: peer.host, scheme: 'http' }],
      clock: systemClock,
    })
    const parsed = parseReference(`${peer.host}/team/app:1`)
    const image = parsed.ok ? await registry.open(parsed.reference, { platform, signal: stopped.signal }) : undefined
    peer.behaviour.cutAfter = 10
    const reading = bytesOf(image!.layers[0]!.open(0))
    stopped.abort(new DeltaError('canceled', 'enough'))
    expect(await refusal(reading)).toMatchObject({ code: 'canceled' })
  })
})

describe('hostile registries', () => {
  test('a manifest of 10 MB is not read', async () => {
    const peer = await startPeer()
    peer.tag(
      'team/app',
      '1',
      peer.put(Buffer.alloc(10 * 1024 * 1024, ' ')),
      'application/vnd.oci.image.manifest.v1+json',
    )
    expect(await refusal(pull(peer).image)).toMatchObject({
      code: 'image_invalid',
      cause: expect.stringContaining('more than'),
    })
  })

  test('a layer longer than it was said to be is cut off', async () => {
    const peer = await startPeer()
    const { layerDigests } = peer.push(simple)
    const image = await pull(peer).image
    peer.behaviour.corrupt = (digest, bytes) => (digest === layerDigests[0] ? Buffer.concat([bytes, bytes]) : bytes)
    expect(await refusal(bytesOf(image.layers[0]!.open(0)))).toMatchObject({ code: 'image_invalid' })
  })

  test.each<[string, (manifest: Record<string, unknown>) => unknown, RegExp]>([
    [
      'thousands of layers',
      (manifest) => ({
        ...manifest,
        layers: Array.from({ length: 3_000 }, () => (manifest['layers'] as unknown[])[0]),
      }),
      /more than 127/,
    ],
    [
      'an unknown kind of layer',
      (manifest) => ({
        ...manifest,
        layers: [{ ...(manifest['layers'] as object[])[0], mediaType: 'application/x-evil' }],
      }),
      /kind application\/x-evil/,
    ],
    [
      'a layer of absurd size',
      (manifest) => ({ ...manifest, layers: [{ ...(manifest['layers'] as object[])[0], size: 1e15 }] }),
      /bytes/,
    ],
    [
      'a negative size',
      (manifest) => ({ ...manifest, config: { ...(manifest['config'] as object), size: -1 } }),
      /size/,
    ],
    [
      'a digest that is a path',
      (manifest) => ({
        ...manifest,
        config: { ...(manifest['config'] as object), digest: 'sha256:../../../etc/passwd' },
      }),
      /no digest/,
    ],
    ['fewer diffs than layers', (manifest) => ({ ...manifest, layers: [] }), /0 layers and its configuration 2/],
    ['the first schema', () => ({ schemaVersion: 1, fsLayers: [] }), /not 2/],
    ['no object', () => [], /manifest is not valid/],
  ])('%s are refused', async (_name, change, why) => {
    const peer = await startPeer()
    const { manifestText } = peer.push(simple)
    const changed = Buffer.from(JSON.stringify(change(JSON.parse(manifestText) as Record<string, unknown>)))
    peer.tag('team/app', '1', peer.put(changed), 'application/vnd.oci.image.manifest.v1+json')
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'image_invalid', cause: expect.stringMatching(why) })
  })

  test('a stated digest that is not the content’s is noticed', async () => {
    const peer = await startPeer()
    peer.push(simple)
    peer.behaviour.digestHeader = `sha256:${'0'.repeat(64)}`
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'image_invalid' })
  })

  test('what is not there is not found', async () => {
    const peer = await startPeer()
    expect(await refusal(pull(peer).image)).toMatchObject({ code: 'image_not_found' })
  })
})
