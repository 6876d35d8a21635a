import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { isLongForm, longFormOnly } from './debian.ts'
import { delta } from './target.ts'

describe('the template debian', () => {
  let sandbox: Sandbox

  beforeAll(async () => {
    if (isLongForm) sandbox = await delta.sandboxes.create({ template: 'debian', timeoutMs: 3_600_000 })
  })
  beforeEach(({ skip }) => skip(!isLongForm, longFormOnly))
  afterAll(async () => {
    if (isLongForm) await sandbox.kill()
  })

  /** What it says on stdout; anything but success is a failure that shows all it said. */
  async function run(cmd: string | string[], user = 'user'): Promise<string> {
    const { exitCode, stdout, stderr } = await sandbox.commands.run(cmd, { user, timeoutMs: 120_000 })
    expect(exitCode, `${String(cmd)}: ${stdout}${stderr}`).toBe(0)
    return stdout.trim()
  }

  test('user becomes root without a password, and only inside', async () => {
    expect(await run('id -u; id -un; sudo -n id -u; sudo -n id -un')).toBe('1000\nuser\n0\nroot')
    // Root of a user namespace: its uid 0 is none of the host's.
    expect(await run('sudo -n cat /proc/self/uid_map')).toMatch(/^0 +[1-9]\d+ +65536$/)
  })

  test('curl under sudo goes by the proxy and hears its refusal', async () => {
    expect(await run('sudo -n env | grep -ci proxy')).toBe('7')
    const { exitCode, stderr } = await sandbox.commands.run('sudo -n curl -sS https://refused.example/')
    expect([exitCode, stderr]).toEqual([56, expect.stringContaining('403')])
  })

  test.each([
    ['bash --version', /GNU bash/],
    ['python3 -c "print(6*7)"', /^42$/],
    ['pip --version', /^pip \d/],
    ['node -e "console.log(6*7)"', /^42$/],
    ['npm --version', /^\d+\./],
    ['git --version', /^git version/],
    ['curl --version', /^curl \d/],
    ['gcc --version', /^gcc/],
    ['make --version', /^GNU Make/],
    ['jq -n "6*7"', /^42$/],
  ])('%s runs', async (cmd, said) => {
    expect(await run(cmd)).toMatch(said)
  })

  test('a C program is compiled and run', async () => {
    await sandbox.files.write(
      '/workspace/six.c',
      '#include <stdio.h>\nint main(void) { return printf("%d\\n", 6 * 7) != 3; }\n',
    )
    expect(await run('gcc -Wall -Werror -O2 -o six six.c && ./six')).toBe('42')
  })

  test('a virtual environment has a python and a pip of its own', async () => {
    expect(await run('python3 -m venv /workspace/venv && . /workspace/venv/bin/activate && pip --version')).toContain(
      '/workspace/venv/',
    )
    expect(await run('/workspace/venv/bin/python -c "import sys; print(sys.prefix)"')).toBe('/workspace/venv')
  })

  test('git keeps a history', async () => {
    const identity = '-c user.name=a -c user.email=a@example.org'
    expect(
      await run(
        `git init -q r && cd r && echo a > a && git add a && git ${identity} commit -qm one && git log --format=%s`,
      ),
    ).toBe('one')
  })

  test('a package built here is installed and removed by dpkg, with its scripts', async () => {
    const control =
      'Package: delta-probe\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: probe\n'
    await run('mkdir -p deb/DEBIAN deb/usr/bin')
    await sandbox.files.write('/workspace/deb/DEBIAN/control', control)
    await sandbox.files.write('/workspace/deb/DEBIAN/postinst', '#!/bin/sh\nid -u > /var/lib/delta-probe\n', {
      mode: 0o755,
    })
    await sandbox.files.write('/workspace/deb/usr/bin/delta-probe', '#!/bin/sh\necho probed\n', { mode: 0o755 })
    await run('dpkg-deb --root-owner-group --build deb delta-probe.deb')
    expect((await sandbox.commands.run('dpkg --install delta-probe.deb')).exitCode).not.toBe(0)
    await run('sudo -n dpkg --install delta-probe.deb')
    expect(await run('delta-probe; cat /var/lib/delta-probe; stat -c "%U %a" /usr/bin/delta-probe')).toBe(
      'probed\n0\nroot 755',
    )
    expect(await run("dpkg-query -W -f '${Status} ${Version}' delta-probe")).toBe('install ok installed 1.0')
    await run('sudo -n apt-get check -qq && sudo -n dpkg --purge delta-probe')
    expect(await run('command -v delta-probe || echo gone')).toBe('gone')
  })

  test('files belong to whom they should, and user writes to its own places only', async () => {
    expect(await run('stat -c "%n %U:%G %a" /workspace /home/user / /etc /usr /usr/bin/env /tmp /root')).toBe(
      [
        '/workspace user:user 755',
        '/home/user user:user 755',
        '/ root:root 755',
        '/etc root:root 755',
        '/usr root:root 755',
        '/usr/bin/env root:root 755',
        '/tmp root:root 1777',
        '/root root:root 700',
      ].join('\n'),
    )
    expect(await run('find / -xdev \\( -nouser -o -nogroup \\) -print -quit', 'root')).toBe('')
    await run('echo mine > /workspace/mine && echo mine > ~/mine && stat -c %U /workspace/mine ~/mine | sort -u')
    for (const path of ['/etc/mine', '/usr/bin/mine', '/root/mine', '/mine'])
      expect((await sandbox.commands.run(['touch', path])).stderr, path).toMatch(/Permission denied/)
    expect((await sandbox.commands.run(['cat', '/etc/shadow'])).stderr).toMatch(/Permission denied/)
  })

  test('sudo stays root’s and set-uid over a stop and a start, and what was installed stays', async () => {
    const setuid = 'stat -c "%U:%G %a" "$(command -v sudo)"'
    expect(await run(setuid)).toBe('root:root 4755')
    await run('sudo -n install -m 4755 /usr/bin/id /usr/local/bin/root-id && echo kept > /workspace/kept')
    expect(await run('/usr/local/bin/root-id -u')).toBe('0')
    await sandbox.stop()
    await sandbox.start()
    expect(await run(setuid)).toBe('root:root 4755')
    expect(await run('sudo -n id -u; /usr/local/bin/root-id -u; cat /workspace/kept')).toBe('0\n0\nkept')
    expect(await run('stat -c "%U:%G %a" /usr/local/bin/root-id /workspace/kept')).toBe('root:root 4755\nuser:user 644')
  })
})
