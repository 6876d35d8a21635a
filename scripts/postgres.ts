import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'

export interface OwnPostgres {
  url: string
  /** A program of the same version. */
  tool(name: string): string
  stop(): void
}

export interface PostgresOptions {
  /** What is committed is on disk. @default false */
  durable?: boolean
  /** @default that of temporary files */
  within?: string
}

/** What tests leave in it is not asked for after a crash, and no database of theirs lives long enough to be tidied. */
const hasty = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'autovacuum=off']

/** A PostgreSQL server of Debian's package for this run alone, which leaves nothing. */
export async function startPostgres({
  durable = false,
  within = tmpdir(),
}: PostgresOptions = {}): Promise<OwnPostgres> {
  const version = ['17', '16', '15'].find((number) => existsSync(`/usr/lib/postgresql/${number}/bin/postgres`))
  if (!version) throw new Error('PostgreSQL is not installed: apt-get install -y postgresql')
  const tool = (name: string) => `/usr/lib/postgresql/${version}/bin/${name}`
  const folder = mkdtempSync(join(within, 'delta-postgres-'))
  const asPostgres = (program: string, args: string[]) =>
    userInfo().uid === 0
      ? { program: 'setpriv', args: ['--reuid=postgres', '--regid=postgres', '--init-groups', program, ...args] }
      : { program, args }
  must(spawnSync('chown', ['postgres', folder]))
  const init = asPostgres(tool('initdb'), ['-D', join(folder, 'db'), '-U', 'delta', '--auth=trust', '-E', 'UTF8'])
  must(spawnSync(init.program, init.args, { encoding: 'utf8', cwd: folder }))
  const port = 20_000 + Math.floor(Math.random() * 10_000)
  const start = asPostgres(tool('postgres'), [
    '-D',
    join(folder, 'db'),
    '-p',
    String(port),
    '-c',
    'listen_addresses=127.0.0.1',
    ...(durable ? [] : hasty).flatMap((setting) => ['-c', setting]),
    // Tests that try a cut at every call have a database for each.
    '-c',
    'max_connections=500',
    '-c',
    `unix_socket_directories=${folder}`,
  ])
  const server = spawn(start.program, start.args, { stdio: 'ignore', cwd: folder })
  const stop = () => {
    process.off('exit', stop)
    server.kill('SIGINT')
    spawnSync('sleep', ['1'])
    rmSync(folder, { recursive: true, force: true })
  }
  // Whoever is ended in the middle leaves neither server nor folder.
  process.once('exit', stop)
  const deadline = performance.now() + 20_000
  while (spawnSync(tool('pg_isready'), ['-h', '127.0.0.1', '-p', String(port)]).status !== 0) {
    if (performance.now() > deadline) throw new Error('PostgreSQL did not start within 20 s')
    await new Promise((done) => setTimeout(done, 100))
  }
  return { url: `postgres://delta@127.0.0.1:${port}/postgres`, tool, stop }
}

function must(done: { status: number | null; stderr?: unknown }) {
  if (done.status !== 0) throw new Error(String(done.stderr))
}
