import { chmod, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Auth, type Session } from '@delta-agents/sdk'
import { CliError } from './failure.ts'

/** How this person of this machine speaks to one server. */
export type Login = { kind: 'key'; key: string } | { kind: 'session'; email: string; session: Session }

export interface Logins {
  get(url: string): Promise<Login | undefined>
  put(url: string, login: Login | undefined): Promise<void>
  /** What to send to that server; a session is refreshed where its token is about to end. Undefined: nobody has logged in there. */
  key(url: string, auth: Pick<Auth, 'refresh'>): Promise<string | undefined>
}

/** A refresh takes no longer than a request may; who holds the lock longer has died. */
const lockStaleMs = 70_000
const lockLookMs = 50
const earlyMs = 60_000

/**
 * One file in the person's configuration folder that nobody else reads. Two commands at once must not use one refresh token, since the server would take the second for a
 * thief: so whoever refreshes holds a lock.
 */
export function createLogins(folder: string): Logins {
  const file = join(folder, 'logins.json')
  const lock = join(folder, 'logins.lock')

  async function read(): Promise<Record<string, Login>> {
    try {
      return JSON.parse(await readFile(file, 'utf8')) as Record<string, Login>
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return {}
      throw new CliError(`${file} cannot be read`, `Remove ${file} and log in again.`, { cause })
    }
  }

  async function write(all: Record<string, Login>): Promise<void> {
    const fresh = `${file}.${process.pid}`
    await writeFile(fresh, `${JSON.stringify(all, null, 2)}\n`, { mode: 0o600 })
    await chmod(fresh, 0o600)
    await rename(fresh, file)
  }

  async function locked<T>(work: () => Promise<T>): Promise<T> {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    for (;;) {
      try {
        await (await open(lock, 'wx', 0o600)).close()
        break
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause
        const held = await stat(lock).catch(() => undefined)
        if (held && Date.now() - held.mtimeMs > lockStaleMs) await rm(lock, { force: true })
        else await new Promise((done) => setTimeout(done, lockLookMs))
      }
    }
    try {
      return await work()
    } finally {
      await rm(lock, { force: true })
    }
  }

  const isFresh = ({ expiresAt }: Session) => Date.parse(expiresAt) - Date.now() > earlyMs

  return {
    get: async (url) => (await read())[url],
    put: (url, login) =>
      locked(async () => {
        const { [url]: _before, ...others } = await read()
        await write(login === undefined ? others : { ...others, [url]: login })
      }),
    async key(url, auth) {
      const login = (await read())[url]
      if (login === undefined) return undefined
      if (login.kind === 'key') return login.key
      if (isFresh(login.session)) return login.session.accessToken
      return locked(async () => {
        const all = await read()
        const now = all[url]
        if (now?.kind !== 'session') return now?.key
        // Somebody else has just done it.
        if (isFresh(now.session)) return now.session.accessToken
        const session = await auth.refresh(now.session.refreshToken)
        await write({ ...all, [url]: { ...now, session } })
        return session.accessToken
      })
    },
  }
}

/** Undefined where there is no home. */
export function loginsFolder(env: NodeJS.ProcessEnv): string | undefined {
  const config = env['XDG_CONFIG_HOME'] || (env['HOME'] ? join(env['HOME'], '.config') : undefined)
  return config && join(config, 'delta')
}
