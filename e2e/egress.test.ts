import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { Delta, type Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { type Origin, startOrigin } from './origin.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'
import { refusal } from './target.ts'

/** Beside the platform that other tests use. */
const uids = ownUids(500)
// The operator states names and opens one address of loopback: no packet leaves the machine, also where a refusal fails. The last two stand
// for what is private; which other addresses count as that is tried beside the rules, without a network.
const operator = {
  DELTA_EGRESS_ALLOW_CIDRS: '127.0.0.1',
  DELTA_EGRESS_HOSTS:
    'origin.test=127.0.0.1,other.test=127.0.0.1,intranet.test=127.9.9.9,metadata.test=127.254.169.254',
}

let dataDir: string
let platform: Platform
let delta: Delta
let origin: Origin
let sandbox: Sandbox

beforeAll(async () => {
  origin = await startOrigin()
  dataDir = newDataDir()
  platform = await startPlatform({ dataDir, env: { ...uids, ...operator } })
  delta = new Delta({ url: platform.url, apiKey: platform.key })
  sandbox = await delta.sandboxes.create({
    timeoutMs: 1_800_000,
    network: { egress: { hosts: ['origin.test:*', 'intranet.test', 'metadata.test'] } },
  })
})
afterAll(async () => {
  await platform.stop('SIGINT')
  await origin.close()
  expect(leftovers(dataDir), platform.log()).toEqual([])
  rmSync(dataDir, { recursive: true, force: true })
})

const run = (cmd: string | string[], options = {}) => sandbox.commands.run(cmd, { timeoutMs: 60_000, ...options })

/** What it says when it succeeds; anything else is a failure that shows all it said. */
async function said(cmd: string | string[], options = {}): Promise<string> {
  const { exitCode, stdout, stderr } = await run(cmd, options)
  expect(exitCode, `${String(cmd)}: ${stdout}${stderr}`).toBe(0)
  return stdout.trim()
}

/** It fails, nothing reached the outside, and the log says why. */
async function isRefused(cmd: string, expected: RegExp): Promise<void> {
  const before = origin.connections()
  const { stdout } = await run(cmd)
  // Not by its exit code: Node ends with 0 where the promise of a connection that was reset never settles.
  expect(stdout.trim()).not.toMatch(expected)
  expect(origin.connections()).toBe(before)
  const [last] = (await sandbox.network.connections().page()).data
  expect(last).toMatchObject({ host: 'other.test', outcome: 'refused', reason: 'policy', bytesUp: 0, bytesDown: 0 })
}

const noProxy = 'env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY'
const ownStack = () => sandbox.info.runtime === 'runsc'
const onlyWebPorts = 'programs that ignore the proxy reach names on ports 80 and 443 alone'
/** Node's fetch goes by the proxy from Node 22.21 and 24 on; the template host has the Node that this machine has. */
const direct = ['curl without a proxy', 'a plain TCP client', 'bash alone', 'Node’s fetch']
const has = async (program: string) => (await run(['which', program])).exitCode === 0

describe('each reaches an allowed host and is refused another', () => {
  const node = `fetch(process.argv[1]).then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.statusText))).then((text) => process.stdout.write(text), (error) => { console.error(error); process.exit(1) })`
  const tcp = `import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2])),10); s.sendall(b"hello"); print(s.recv(99).decode())`
  const pip = 'pip3 download --no-cache-dir --no-deps --no-build-isolation --no-binary :all: --trusted-host'
  /** The command for a host, and what it says. */
  const programs: [string, (host: string) => string, RegExp][] = [
    ['curl', (host) => `curl -sSf http://${host}:${origin.http}/hello`, /^hello from outside$/],
    ['curl by CONNECT', (host) => `curl -sSfp http://${host}:${origin.http}/hello`, /^hello from outside$/],
    [
      'curl without a proxy',
      (host) => `${noProxy} curl -sSf http://${host}:${origin.http}/hello`,
      /^hello from outside$/,
    ],
    ['a plain TCP client', (host) => `python3 -c '${tcp}' ${host} ${origin.tcp}`, /^HELLO$/],
    ['bash alone', (host) => `exec 3<>/dev/tcp/${host}/${origin.tcp} && echo hello >&3 && head -n1 <&3`, /^HELLO$/],
    ['Node’s fetch', (host) => `node -e '${node}' http://${host}:${origin.http}/hello`, /^hello from outside$/],
    [
      'git',
      (host) => `rm -rf r; git clone -q http://${host}:${origin.http}/repo.git r && cat r/package/index.js`,
      /= 42$/,
    ],
    [
      'npm',
      (host) =>
        `rm -rf n && mkdir n && cd n && npm install --silent --fetch-retries=0 --registry http://${host}:${origin.http}/npm tiny-box && node -p 'require("tiny-box")'`,
      /42$/,
    ],
    [
      'pip',
      (host) =>
        `${pip} ${host} --retries 0 --index-url http://${host}:${origin.http}/simple tiny-box 2>&1 | grep -o 'Downloading.*tiny-box-1.0.0.tar.gz'`,
      /^Downloading/,
    ],
    [
      'apt-get',
      (host) =>
        `rm -rf apt && mkdir -p apt/lists/partial apt/cache/partial && echo 'deb [trusted=yes] http://${host}:${origin.http}/apt tiny main' > apt/list && : > apt/status && o='-o Dir::Etc::sourcelist=/workspace/apt/list -o Dir::Etc::sourceparts=- -o Dir::State::lists=/workspace/apt/lists -o Dir::State::status=/workspace/apt/status -o Dir::Cache=/workspace/apt/cache -o APT::Sandbox::User= -o Acquire::Retries=0' && apt-get $o -qq --error-on=any update && apt-cache $o policy tiny-box`,
      /Candidate: 1\.0/,
    ],
  ]

  test.for(programs)('%s', async ([name, command, expected], { skip }) => {
    const program = /^(curl|git|npm|apt-get)/.exec(name)?.[1] ?? (name === 'pip' ? 'pip3' : 'bash')
    skip(!(await has(program)), `the template host has what this machine has, which is no ${program}`)
    skip(ownStack() && direct.includes(name), `under gVisor ${onlyWebPorts}`)
    expect(await said(command('origin.test'))).toMatch(expected)
    // The row comes with the end of the connection, a moment after the program's own.
    await expect
      .poll(async () => (await sandbox.network.connections().page()).data[0])
      .toMatchObject({ host: 'origin.test', address: '127.0.0.1', outcome: 'allowed' })
    const [last] = (await sandbox.network.connections().page()).data
    expect(last!.bytesUp).toBeGreaterThan(0)
    expect(last!.bytesDown).toBeGreaterThan(0)
    await isRefused(command('other.test'), expected)
  })
})

describe('a refusal', () => {
  test('names the policy and how to change it, in the status phrase too', async () => {
    const words = `Egress to other.test:443 is refused by the policy "origin.test:*, intranet.test, metadata.test" of ${sandbox.id}; allow it with 'delta egress allow', or ask with POST /v1/sandboxes/{id}/network/requests`
    const plain = await run('curl -s -D - http://other.test:443/')
    expect(plain.stdout).toContain(`HTTP/1.1 403 ${words}`)
    expect(plain.stdout.split('\r\n\r\n')[1]).toContain(words)
    expect((await run('curl -sSv -o /dev/null https://other.test/')).stderr).toContain(`HTTP/1.1 403 ${words}`)
  })

  test('is told of what is private, whatever the policy says, without a packet', async () => {
    for (const host of ['intranet.test', 'metadata.test']) {
      const { stdout } = await run(`curl -s -D - -m 20 http://${host}/latest/meta-data/`)
      expect(stdout).toMatch(/^HTTP\/1\.1 403 Egress to .* leads to an address that is not public/)
      expect((await run(`${noProxy} curl -sS -m 20 http://${host}/`)).exitCode).not.toBe(0)
    }
    const rows = (await sandbox.network.connections().page()).data.slice(0, 4)
    expect(rows.map(({ reason, address }) => [reason, address])).toEqual(rows.map(() => ['address_not_public', null]))
    expect(rows.length).toBe(4)
  })

  test('is told of addresses that no rule names, also where loopback is open to names', async ({ skip }) => {
    expect(
      (await run(`curl -s -D - -x http://127.0.0.1:3129 --noproxy '' http://127.0.0.1:${origin.http}/hello`)).stdout,
    ).toMatch(/^HTTP\/1\.1 403 Egress to 127\.0\.0\.1/)
    expect((await run(`${noProxy} curl -sS -m 20 http://192.0.2.1/`)).exitCode).not.toBe(0)
    skip(ownStack(), `under gVisor ${onlyWebPorts}: what is logged of it was not looked at`)
    expect((await sandbox.network.connections().page()).data[0]).toMatchObject({
      host: '192.0.2.1',
      reason: 'policy',
      via: 'tcp',
    })
  })

  test('of a request without a host, or that is none, is told by the proxy', async () => {
    const ask = (head: string) =>
      said(`printf '${head}' | timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/3129; cat >&3; head -n1 <&3'`)
    expect(await ask('GET / HTTP/1.1\\r\\n\\r\\n')).toMatch(/^HTTP\/1\.1 400 /)
    expect(await ask('CONNECT :443 HTTP/1.1\\r\\n\\r\\n')).toMatch(/^HTTP\/1\.1 400 /)
    expect(await ask('\\x16\\x03\\x01 nonsense\\r\\n\\r\\n')).toMatch(/^HTTP\/1\.1 400 /)
  })

  test('has no way around it: neither UDP nor ICMP nor another resolver', async () => {
    const heard: string[] = []
    const listener = createSocket('udp4', (message) => heard.push(message.toString()))
    listener.bind(0, '127.0.0.1')
    await once(listener, 'listening')
    const { port } = listener.address()
    const udp = `import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.sendto(b"from inside",("127.0.0.1",${port}))`
    await said(['python3', '-c', udp], { user: 'root' })
    // What it hears from outside comes after what it would have heard from inside.
    listener.send('from outside', port, '127.0.0.1')
    await expect.poll(() => heard).toContain('from outside')
    expect(heard).toEqual(['from outside'])
    listener.close()
    expect(
      (
        await run(['python3', '-c', 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'], {
          user: 'root',
        })
      ).exitCode,
    ).not.toBe(0)
  })
})

describe('a policy that changes', () => {
  test('cuts the stream it refuses within a second and leaves others', async () => {
    const streams = await Promise.all(
      ['origin.test', 'other.test'].map(async (host) => {
        const lines: string[] = []
        await sandbox.network.allow(`${host}:*`)
        const handle = await sandbox.commands.start(`curl -sSN http://${host}:${origin.http}/stream`)
        const done = handle.wait()
        await expect.poll(async () => (await sandbox.commands.list()).length).toBeGreaterThan(0)
        return { handle, done, lines }
      }),
    )
    await expect.poll(origin.connections).toBeGreaterThanOrEqual(2)
    await expect.poll(async () => openConnections()).toBe(2)
    const asked = performance.now()
    await sandbox.network.set({ hosts: ['origin.test:*', 'intranet.test', 'metadata.test'] })
    expect((await streams[1]!.done).exitCode).not.toBe(0)
    expect(performance.now() - asked).toBeLessThan(5_000)
    expect(await openConnections()).toBe(1)
    const [last] = (await sandbox.network.connections().page()).data
    expect(last).toMatchObject({ host: 'other.test', outcome: 'allowed', reason: 'policy_changed' })
    expect(last!.bytesDown).toBeGreaterThan(0)
    await streams[0]!.handle.kill()
  })

  test('lets in what it refused before, at once', async () => {
    await using own = await delta.sandboxes.create()
    const hello = `curl -sSf http://other.test:${origin.http}/hello`
    expect((await own.commands.run(hello)).exitCode).not.toBe(0)
    await own.network.allow(`other.test:${origin.http}`)
    expect((await own.commands.run(hello)).stdout).toBe('hello from outside\n')
    await own.network.set('none')
    expect((await own.commands.run(hello)).exitCode).not.toBe(0)
    await own.network.set('all')
    expect((await own.commands.run(hello)).exitCode).toBe(0)
  })

  test('holds after a stop and a start, and a pause ends connections', async () => {
    await using own = await delta.sandboxes.create({ network: { egress: { hosts: ['origin.test:*'] } } })
    await own.commands.start(`curl -sSN http://origin.test:${origin.http}/stream`)
    await expect.poll(async () => openConnections()).toBeGreaterThan(0)
    await own.pause()
    await expect.poll(async () => (await own.network.connections().page()).data[0]?.reason).toBe('paused')
    await own.stop()
    await own.start()
    expect(own.info.network).toEqual({ egress: { hosts: ['origin.test:*'], presets: [] } })
    expect((await own.commands.run(`curl -sSf http://origin.test:${origin.http}/hello`)).exitCode).toBe(0)
  })

  test('that is no policy is refused with the reason', async () => {
    const error = await refusal(sandbox.network.set({ hosts: ['https://example.com'] }))
    expect(error).toMatchObject({ code: 'invalid_request', status: 400 })
    expect(String(error.cause)).toContain('has a scheme')
    await refusal(delta.sandboxes.create({ network: { egress: { hosts: ['10.0.0.0/8'] } } }))
  })
})

test('a caller’s own proxy variables win', async () => {
  const own = await said('echo $http_proxy $no_proxy $NODE_USE_ENV_PROXY', { env: { http_proxy: 'http://mine' } })
  expect(own).toBe('http://mine localhost,127.0.0.1,::1 1')
})

// Under sudo: debian.test.ts, since few machines have it.
test('programs in a shell that starts with nothing go by the proxy too', async ({ skip }) => {
  skip(!(await has('curl')), 'this machine has no curl')
  const shell = (host: string) => `env -i HOME=/root bash -lc 'curl -sSf http://${host}:${origin.http}/hello'`
  expect(await said(shell('origin.test'))).toBe('hello from outside')
  await expect
    .poll(async () => (await sandbox.network.connections().page()).data[0])
    .toMatchObject({ host: 'origin.test', via: 'http', outcome: 'allowed' })
  await isRefused(shell('other.test'), /hello/)
})

test('what a program sends to the proxy about itself stays inside', async () => {
  const headers = await said(
    `curl -sSf -H 'Proxy-Authorization: Basic eA==' -H 'Connection: x-mine' -H 'X-Mine: 1' http://origin.test:${origin.http}/headers`,
  )
  expect(JSON.parse(headers)).toMatchObject({ host: `origin.test:${origin.http}` })
  expect(headers).not.toMatch(/proxy-authorization|x-mine|proxy-connection/i)
})

test('200 connections at once all carry what they should', async ({ skip }) => {
  skip(ownStack(), `under gVisor ${onlyWebPorts}`)
  const many = `
import socket, sys, threading
failed = []
def one(i):
    try:
        s = socket.create_connection(("origin.test", ${'PORT'}), 30)
        text = ("line %d " % i) * 200
        s.sendall(text.encode())
        got = b""
        while len(got) < len(text): got += s.recv(65536)
        if got.decode() != text.upper(): failed.append(i)
    except Exception as error:
        failed.append((i, repr(error)))
threads = [threading.Thread(target=one, args=(i,)) for i in range(200)]
[t.start() for t in threads]
[t.join() for t in threads]
print(failed)
`.replace('PORT', String(origin.tcp))
  expect(await said(['python3', '-c', many])).toBe('[]')
})

async function openConnections(): Promise<number> {
  const metrics = await fetch(`${platform.url}/metrics`, { headers: { authorization: `Bearer ${platform.key}` } })
  return Number(/^delta_egress_connections_open (\d+)$/m.exec(await metrics.text())?.[1])
}
