import { execFile } from 'node:child_process'
import { lookup } from 'node:dns/promises'
import { readFileSync, rmSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Delta, type Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { type Origin, startOrigin } from './origin.ts'
import { type Platform, startPlatform } from './platform.ts'

const all = process.env['DELTA_TEST_ALL'] === '1'
if (!all) process.stdout.write('SKIPPED: egress of the debian template, long form only\n')

const cache = resolve(import.meta.dirname, '../.build')
const helper = join(cache, 'bin/delta-helper')
const ownUids = { DELTA_UID_BASE: String(1_879_048_192 + 3_000 * 65_536), DELTA_UID_COUNT: String(500 * 65_536) }
const registries = ['deb.debian.org', 'pypi.org', 'files.pythonhosted.org', 'registry.npmjs.org']
/** Beside the public authorities: where registries are reached through a mirror of the operator's, the machine knows its own. */
const authorities = '/etc/ssl/certs/ca-certificates.crt'

describe.runIf(all)('egress of the template debian', () => {
  let dataDir: string
  let platform: Platform
  let origin: Origin
  let sandbox: Sandbox
  const unreachable = new Set<string>()

  beforeAll(async () => {
    const env = { ...process.env, DELTA_DATA_DIR: cache, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` }
    for (const name of ['host', 'debian']) {
      await promisify(execFile)(helper, ['template', 'build', name], { env, maxBuffer: 64 * 1024 * 1024 })
    }
    // Where this machine's registries have addresses that are not public, their operator would list them as well.
    const found = await Promise.all(
      registries.map((name) => lookup(name, { all: true }).catch(() => (unreachable.add(name), []))),
    )
    const addresses = new Set(found.flat().map(({ address }) => address))
    origin = await startOrigin()
    dataDir = newDataDir()
    symlinkSync(join(cache, 'templates'), join(dataDir, 'templates'))
    platform = await startPlatform({
      dataDir,
      env: {
        ...ownUids,
        DELTA_EGRESS_ALLOW_CIDRS: ['127.0.0.1', ...addresses].join(','),
        DELTA_EGRESS_HOSTS: 'origin.test=127.0.0.1,other.test=127.0.0.1',
      },
    })
    const delta = new Delta({ url: platform.url, apiKey: platform.key })
    const egress = { hosts: ['origin.test:*'], presets: ['packages' as const] }
    sandbox = await delta.sandboxes.create({ template: 'debian', timeoutMs: 3_600_000, network: { egress } })
    await sandbox.files.write('/workspace/authorities.crt', readFileSync(authorities))
  }, 25 * 60_000)

  afterAll(async () => {
    await platform.stop('SIGINT')
    await origin.close()
    expect(leftovers(dataDir), platform.log()).toEqual([])
    rmSync(dataDir, { recursive: true, force: true })
  })

  const run = (cmd: string) => sandbox.commands.run(cmd, { timeoutMs: 300_000 })

  test.each([
    ['curl', (url: string) => `curl -sSf ${url}`],
    ['curl under sudo', (url: string) => `sudo -n curl -sSf ${url}`],
    ['curl under sudo, which forgot the proxy', (url: string) => `sudo -n env -i /usr/bin/curl -sSf ${url}`],
    ['curl in a login shell of root', (url: string) => `sudo -n -i curl -sSf ${url}`],
    ['wget', (url: string) => `wget -qO- ${url}`],
    ['python', (url: string) => `python3 -c 'import urllib.request as u; print(u.urlopen("${url}").read().decode())'`],
    [
      'node',
      (url: string) =>
        `node -e 'fetch("${url}").then((a) => (a.ok ? a.text() : Promise.reject(a.statusText))).then(console.log)'`,
    ],
  ])('%s reaches an allowed host and is refused another', async (_, command) => {
    const reached = await run(command(`http://origin.test:${origin.http}/hello`))
    expect(reached.stdout.trim(), reached.stderr).toBe('hello from outside')
    const before = origin.connections()
    const refused = await run(command(`http://other.test:${origin.http}/hello`))
    expect(refused.stdout).not.toContain('hello from outside')
    expect(origin.connections()).toBe(before)
  })

  const trust = 'export PIP_CERT=/workspace/authorities.crt NODE_EXTRA_CA_CERTS=/workspace/authorities.crt'
  test.each([
    ['apt-get', 'deb.debian.org', 'sudo -n apt-get -qq update && sudo -n apt-get -qqy install hello && hello', /Hello/],
    [
      'pip',
      'pypi.org',
      'pip3 install -q --break-system-packages --user --ignore-installed six && python3 -c "import six; print(six.__name__)"',
      /^six$/,
    ],
    [
      'npm',
      'registry.npmjs.org',
      'mkdir -p n && cd n && npm install --silent is-odd && node -p "require(\'is-odd\')(3)"',
      /true$/,
    ],
  ])('%s installs a real package', async (_, registry, command, expected) => {
    if (unreachable.has(registry)) return console.log(`SKIPPED: ${registry} is not known on this machine`)
    const { exitCode, stdout, stderr } = await run(`${trust}; ${command}`)
    expect(exitCode, stdout + stderr).toBe(0)
    expect(stdout.trim()).toMatch(expected)
    const rows = await sandbox.network.connections().all()
    expect(
      rows.some(({ host, outcome, bytesDown }) => host === registry && outcome === 'allowed' && bytesDown > 0),
    ).toBe(true)
  })
})
