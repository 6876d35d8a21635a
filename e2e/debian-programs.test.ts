import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { isLongForm, longFormOnly } from './debian.ts'
import { delta } from './target.ts'

// What a filter of system calls breaks first: programs with threads, debuggers, databases, browsers, package managers.

/** Packages are fetched, a browser among them. */
const installMs = 15 * 60_000

describe('programs in the template debian', () => {
  let sandbox: Sandbox

  beforeAll(async () => {
    if (!isLongForm) return
    sandbox = await delta.sandboxes.create({
      template: 'debian',
      network: { egress: { presets: ['packages'] } },
      cpu: 2,
      memoryMb: 2048,
      diskMb: 8192,
      timeoutMs: 3_600_000,
    })
    await run('apt-get update -qq', 'root', installMs)
  }, installMs)
  beforeEach(({ skip }) => skip(!isLongForm, longFormOnly))
  afterAll(async () => {
    if (isLongForm) await sandbox.kill()
  })

  /** What it says on stdout; anything but success is a failure that shows all it said. */
  async function run(cmd: string | string[], user = 'user', timeoutMs = 120_000): Promise<string> {
    const { exitCode, stdout, stderr } = await sandbox.commands.run(cmd, { user, timeoutMs })
    expect(exitCode, `${String(cmd)}: ${stdout.slice(-3000)}${stderr.slice(-3000)}`).toBe(0)
    return stdout.trim()
  }
  const install = (...names: string[]) =>
    run(
      `DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${names.join(' ')}`,
      'root',
      installMs,
    )

  test('python runs threads and processes side by side', async () => {
    const script = `
import multiprocessing, threading, concurrent.futures as futures
def square(x): return x * x
if __name__ == '__main__':
    with multiprocessing.Pool(4) as pool: print(sum(pool.map(square, range(100))))
    with futures.ThreadPoolExecutor(8) as pool: print(sum(pool.map(square, range(100))))
    queue = multiprocessing.Queue(); other = multiprocessing.Process(target=queue.put, args=(42,)); other.start(); print(queue.get()); other.join()
    context = multiprocessing.get_context('spawn'); value = context.Value('i', 7); print(value.value)
    barrier = threading.Barrier(2); threading.Thread(target=barrier.wait).start(); barrier.wait(10); print('met')
`
    await sandbox.files.write('/workspace/side.py', script)
    expect((await run('python3 side.py')).split('\n')).toEqual(['328350', '328350', '42', '7', 'met'])
  })

  test('node runs workers, child processes and a watcher', async () => {
    const script = `
      const { Worker } = require('worker_threads'), { execFileSync } = require('child_process'), fs = require('fs')
      console.log(execFileSync('echo', ['child']).toString().trim())
      new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true }).on('message', console.log).on('exit', () => {
        const watcher = fs.watch('.', () => { console.log('seen'); watcher.close() })
        fs.writeFileSync('watched', 'x')
      })`
    await sandbox.files.write('/workspace/side.cjs', script)
    expect((await run('node side.cjs')).split('\n')).toEqual(['child', '42', 'seen'])
  })

  test('make builds side by side, with threads and optimisation by profile', async () => {
    const program =
      '#include <pthread.h>\n#include <stdio.h>\nstatic void *f(void *x) { return x; }\nint main(void) { pthread_t t[8]; for (int i = 0; i < 8; i++) pthread_create(t + i, 0, f, 0); for (int i = 0; i < 8; i++) pthread_join(t[i], 0); return puts("joined") < 0; }\n'
    await sandbox.files.write('/workspace/t.c', program)
    await sandbox.files.write(
      '/workspace/Makefile',
      'all: a b c d\n%: t.c\n\tgcc -O2 -pthread -fsanitize=undefined -o $@ $<\n',
    )
    await run('make -s -j4')
    expect(await run('./a && ./b && ./c && ./d')).toBe('joined\njoined\njoined\njoined')
  })

  test(
    'apt-get installs gdb, which stops, steps and looks at a program of the user',
    async () => {
      await install('gdb')
      await sandbox.files.write('/workspace/d.c', 'int main(void) {\n  int x = 6;\n  x *= 7;\n  return x - 42;\n}\n')
      await run('gcc -g -O0 -o d d.c')
      const said = await run('gdb -q -batch -ex "break 4" -ex run -ex "print x" -ex "info threads" -ex continue ./d')
      expect(said).toContain('$1 = 42')
      expect(said).toContain('exited normally')
      // Also on one that runs already.
      const attached = 'sleep 30 & gdb -q -batch -p $! -ex "info proc" -ex detach; kill %1'
      expect(await run(attached)).toMatch(/process \d+/)
    },
    installMs,
  )

  test(
    'apt-get installs PostgreSQL, which serves, and keeps what was committed over a restart',
    async () => {
      await install('postgresql')
      await run('pg_ctlcluster 15 main restart', 'root')
      const ask = (sql: string) =>
        run(['psql', '-XAtq', '-h', '/var/run/postgresql', '-c', sql, 'postgres'], 'postgres')
      await ask('create table kept as select generate_series(1, 10000) as n')
      await ask('create index on kept (n)')
      expect(await ask('select sum(n) from kept')).toBe('50005000')
      await run('pg_ctlcluster 15 main restart -m fast', 'root')
      expect(await ask('select count(*) from kept')).toBe('10000')
      await run('pg_ctlcluster 15 main stop', 'root')
    },
    installMs,
  )

  test(
    'apt-get installs Chromium, which runs JavaScript without being told about sandboxes',
    async () => {
      await install('chromium')
      const page =
        '<body><p id=a></p><script>a.textContent = 6 * 7; a.className = navigator.userAgent.length > 0</script>'
      await sandbox.files.write('/workspace/page.html', page)
      const dom = await run(
        'chromium --headless --disable-gpu --virtual-time-budget=2000 --dump-dom file:///workspace/page.html 2>/dev/null',
      )
      expect(dom).toContain('<p id="a" class="true">42</p>')
      await run(
        'chromium --headless --disable-gpu --screenshot=shot.png file:///workspace/page.html 2>/dev/null; test -s shot.png',
      )
    },
    installMs,
  )
})
