import type { MiddlewareHandler } from 'hono'
import { expect } from 'vitest'
import { createApp } from '../../app.ts'
import { manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { guardWrites } from '../../kernel/db/testing.ts'
import type { OpenTestDatabase } from '../../kernel/db/testing.ts'
import type { ApiEnv } from '../../kernel/http/api.ts'
import { createLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import { createDefaultKeyReader } from '../api-key.ts'
import { createCallerDoor } from '../authenticate.ts'
import type { AuditEntry, RecordAudit } from '../audit/entry.ts'
import { auditRefusals } from '../audit/requests.ts'
import type { Mail } from '../mail/events.ts'
import { mailMigrations } from '../mail/migrations.ts'
import { mailFeature } from '../mail/routes.ts'
import { createMailbox } from '../mail/service.ts'
import { accessMigrations } from '../migrations.ts'
import { openRevocations } from '../revocations.ts'
import { createSecrets } from '../secrets.ts'
import { keyMigrations } from '../keys/migrations.ts'
import { createKeyStore } from '../keys/store.ts'
import type { SessionRevocations } from './context.ts'
import { createCookies, shownOf } from './cookies.ts'
import { peopleMigrations } from './migrations.ts'
import { refusalPage } from './pages.ts'
import type { Derive } from './passwords.ts'
import { peopleFeature, requireOperator } from './routes.ts'
import type { SessionTokens } from './schema.ts'
import { createPeople } from './service.ts'
import { totpCode } from './totp.ts'

export const operatorKey = 'delta_operator'
export const secretKey = 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ'
export const publicUrl = 'https://delta.example.com'
const startMs = Date.UTC(2026, 0, 15, 12)

interface CallOptions {
  token?: string | undefined
  headers?: Record<string, string>
}

interface StartOptions {
  derive?: Derive
  registration?: 'open' | 'invited'
  /** @default the documented one, which is https */
  url?: string
  revocations?: (real: SessionRevocations) => SessionRevocations
  secret?: string
  /** That of a server that ran before. */
  database?: Database
  watchRequests?: MiddlewareHandler<ApiEnv>
  /** Asked before each write to the database. */
  beforeWrite?: () => Promise<void>
  mustRecord?: (accountId: string) => void
}

/** What stands for the connection that a request came by. */
const addressHeader = 'x-test-address'

export type Started = Awaited<ReturnType<typeof startPeople>>

/** The server's routes of people on a database of its own, with a clock that stands still and mails that are kept in a list too. */
export async function startPeople(
  open: OpenTestDatabase,
  {
    derive,
    registration = 'open',
    url = publicUrl,
    revocations: wrap = (real) => real,
    secret: ownSecret = secretKey,
    database: given,
    watchRequests,
    beforeWrite,
    mustRecord = () => {},
  }: StartOptions = {},
) {
  const clock = manualClock(startMs)
  const opened = given ?? (await open([...accessMigrations, ...keyMigrations, ...peopleMigrations, ...mailMigrations]))
  const database = beforeWrite ? guardWrites(opened, beforeWrite) : opened
  const keyStore = createKeyStore(database)
  const logged: string[] = []
  const log = createLogger({ level: 'debug', write: (line) => logged.push(line), now: clock.now })
  const secrets = createSecrets({ secretKey: ownSecret })
  const revocations = await openRevocations({ database, clock, log })
  const mails: Mail[] = []
  const mailbox = createMailbox({ database, clock, log, secrets })
  const changes: AuditEntry[] = []
  /** For the audit log's entries of requests. */
  const told: { made: string | undefined; told: object }[] = []
  let derived = 0
  const counting: Derive = async (password, salt) => {
    derived += 1
    return derive ? derive(password, salt) : quickDerive(password, salt)
  }
  const record: RecordAudit = async (change) => void changes.push(change)
  const people = createPeople({
    database,
    clock,
    log,
    secrets,
    revocations: wrap(revocations),
    derive: counting,
    sendMail(mail) {
      mails.push(mail)
      mailbox.accept(mail)
    },
    endKeysSteps: (userId, accountId) => [keyStore.endOfPersonStep(userId, accountId, clock.now())],
    mustRecord,
    record,
    settings: { publicUrl: url, registration },
  })
  const cookies = createCookies({ publicUrl: url })
  const door = createCallerDoor({
    readers: [people.sessions.reader, createDefaultKeyReader({ sha256: await sha256(operatorKey) })],
    revocations,
    clock,
  })
  const metrics = createMetrics()
  const { api } = createApp({
    features: [mailFeature({ mailbox, requireOperator }), peopleFeature({ people, cookies, clock })],
    access: door,
    cookieAuthorization: (c) => cookies.authorization(shownOf(c)),
    watchRefusals: auditRefusals({ record }),
    refusalPage,
    async watchRequests(c, next) {
      const address = c.req.header(addressHeader)
      if (address !== undefined) c.set('address', address)
      await (watchRequests ? watchRequests(c, next) : next())
      const details = c.get('told')
      if (details) told.push({ made: c.get('made'), told: details })
    },
    log,
    clock,
    metrics,
    checkDatabase: database.check,
    settings: {
      version: '0',
      host: '127.0.0.1',
      hosts: ['delta.example.com'],
      environment: 'production',
      installation: () => ({}),
    },
  })

  async function call(method: string, path: string, body?: unknown, { token, headers = {} }: CallOptions = {}) {
    const answer = await api.request(`http://127.0.0.1${path}`, {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
        ...headers,
      },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await answer.text()
    const parsed = answer.headers.get('content-type')?.startsWith('application/json')
      ? (JSON.parse(text) as unknown)
      : text
    return { status: answer.status, headers: answer.headers, text, body: parsed as Record<string, never> & Failure }
  }

  /** What is done after an answer has gone out. */
  async function mailTo(address: string, pattern: RegExp = /./): Promise<Mail> {
    for (let i = 0; i < 400; i++) {
      const mail = mails.findLast(({ to, text, subject }) => to === address && pattern.test(subject + text))
      if (mail) return mail
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    throw new Error(`No mail to ${address}`)
  }

  /** From then on nothing is written that nobody asks for. */
  async function mailsKept(): Promise<void> {
    while ((await mailbox.list()).length < mails.length) await new Promise((resolve) => setTimeout(resolve, 5))
  }

  async function linkTo(address: string, purpose: string): Promise<string> {
    return tokenOf((await mailTo(address, new RegExp(`/auth/${purpose}\\?t=`))).text)
  }

  /** Somebody with an account of their own. */
  async function join(email: string, password = `password of ${email}`): Promise<SessionTokens> {
    expect((await call('POST', '/v1/auth/register', { email })).status).toBe(202)
    const answer = await call('POST', '/v1/auth/verify', {
      token: await linkTo(email.toLowerCase(), 'verify'),
      password,
    })
    expect(answer.status).toBe(200)
    return answer.body as unknown as SessionTokens
  }

  async function login(email: string, password = `password of ${email}`, more: object = {}, address?: string) {
    const headers: Record<string, string> = address === undefined ? {} : { [addressHeader]: address }
    return call('POST', '/v1/auth/login', { email, password, ...more }, { headers })
  }

  async function turnOnTotp(token: string, password: string) {
    const { body } = await call('POST', '/v1/auth/totp', { password }, { token })
    const secret = String(body['secret'])
    const code = (steps = 0) => totpCode(secret, Math.floor(clock.now() / 30_000) + steps)
    const confirmed = await call('POST', '/v1/auth/totp/confirm', { code: code() }, { token })
    expect(confirmed.status).toBe(200)
    return { code, secret, recoveryCodes: confirmed.body['recoveryCodes'] as unknown as string[] }
  }

  return {
    api,
    people,
    clock,
    database,
    logged,
    mails,
    mailbox,
    changes,
    told,
    metrics,
    secrets,
    call,
    mailTo,
    mailsKept,
    linkTo,
    join,
    login,
    turnOnTotp,
    derived: () => derived,
  }
}

interface Failure {
  error?: { code: string; message: string; context?: Record<string, unknown> }
}

export function tokenOf(text: string): string {
  const token = /\?t=([\w-]+)/.exec(text)?.[1]
  if (token === undefined) throw new Error(`No link in ${text}`)
  return token
}

async function sha256(text: string): Promise<string> {
  return Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from(text))).toString('hex')
}

/** As different for different passwords and salts as the real one, and a thousand times quicker. */
async function quickDerive(password: Buffer, salt: Buffer): Promise<Buffer> {
  return Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.concat([salt, password])))
}
