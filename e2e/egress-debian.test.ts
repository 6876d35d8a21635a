import { readFileSync } from 'node:fs'
import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { isLongForm, longFormOnly, unknownRegistries } from './debian.ts'
import { type Origin, startOrigin } from './origin.ts'
import { delta } from './target.ts'

/** Beside the public authorities: where registries are reached through a mirror of the operator's, the machine knows its own. */
const authorities = '/etc/ssl/certs/ca-certificates.crt'

describe('egress of the template debian', () => {
  let origin: Origin
  let sandbox: Sandbox
  let unknown: Set<string>

  beforeAll(async () => {
    if (!isLongForm) return
    unknown = await unknownRegistries()
    origin = await startOrigin()
    const egress = { hosts: ['origin.test:*'], presets: ['packages' as const] }
    sandbox = await delta.sandboxes.create({ template: 'debian', timeoutMs: 3_600_000, network: { egress } })
    await sandbox.files.write('/workspace/authorities.crt', readFileSync(authorities))
  })
  beforeEach(({ skip }) => skip(!isLongForm, longFormOnly))
  afterAll(async () => {
    if (!isLongForm) return
    await sandbox.kill()
    await origin.close()
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
  test.for<[string, string, string, RegExp]>([
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
  ])('%s installs a real package', async ([, registry, command, expected], { skip }) => {
    skip(unknown.has(registry), `${registry} is not known on this machine`)
    const { exitCode, stdout, stderr } = await run(`${trust}; ${command}`)
    expect(exitCode, stdout + stderr).toBe(0)
    expect(stdout.trim()).toMatch(expected)
    const rows = await sandbox.network.connections().all()
    expect(
      rows.some(({ host, outcome, bytesDown }) => host === registry && outcome === 'allowed' && bytesDown > 0),
    ).toBe(true)
  })
})
