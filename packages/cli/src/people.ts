import { Delta, DeltaApiError, findApiKey, type Me, type MemberInfo, type Role, type Session } from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { createAsk } from './ask.ts'
import { CliError, UsageError } from './failure.ts'
import { table } from './format.ts'
import type { Io } from './io.ts'
import type { Login, Logins } from './logins.ts'

export interface PeopleCommandsDeps {
  io: Io
  program: Command
  user: Command
  leaf(parent: Command, usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
  /** Undefined where there is no folder for them. */
  logins: Logins | undefined
}

interface LoginFlags {
  email?: string
  code?: string
  link?: string
  key?: boolean
}

export function addPeopleCommands(deps: PeopleCommandsDeps): void {
  addLogIn(deps)
  addUsers(deps)
  addOwnUser(deps)
}

function addLogIn({ io, program, leaf, delta, print, logins }: PeopleCommandsDeps): void {
  const kept = (): Logins => {
    if (logins) return logins
    throw new CliError('There is no folder to keep a login in', 'Set HOME or XDG_CONFIG_HOME, or use DELTA_API_KEY.')
  }

  leaf(program, 'login', 'log in: with the key of this machine’s server, an API key, e-mail and password, or a link')
    .option('-e, --email <address>', 'log in as a user; the password is asked for, or taken from stdin')
    .option('--code <code>', 'of the authenticator app, or a recovery code')
    .option('--link <url>', 'a one-time link that `delta user link` printed')
    .option('--key', 'keep an API key, asked for or taken from stdin')
    .action(async (flags: LoginFlags, command: Command) => {
      const { auth, url } = delta(command)
      const ask = createAsk(io)
      const store = kept()
      const login = await findLogin()
      // What does not open the server is not kept.
      const me = await new Delta({
        url,
        apiKey: login.kind === 'key' ? login.key : login.session.accessToken,
      }).auth.me()
      await store.put(url, login.kind === 'key' ? login : { ...login, email: me.user?.email ?? '' })
      print(command, me, `Logged in to ${url} as ${describe(me)}\n`)

      async function findLogin(): Promise<Login> {
        if (flags.key) return { kind: 'key', key: await ask('API key: ', { secret: true }) }
        if (flags.email === undefined && flags.link === undefined) return { kind: 'key', key: await findApiKey(url) }
        return {
          kind: 'session',
          email: '',
          session: await logIn({ flags, auth, ask, isTerminal: io.stdin.isTTY === true }),
        }
      }
    })

  leaf(program, 'logout', 'end the session and forget it').action(async (_: unknown, command: Command) => {
    const { auth, url } = delta(command)
    const login = await kept().get(url)
    await kept().put(url, undefined)
    if (login?.kind === 'session') await auth.logout(login.session.refreshToken)
    print(
      command,
      { url, loggedOut: login !== undefined },
      login ? `Logged out of ${url}\n` : `Nobody was logged in to ${url}\n`,
    )
  })

  leaf(program, 'whoami', 'who commands speak for, and in which account').action(
    async (_: unknown, command: Command) => {
      const me = await delta(command).auth.me()
      const accounts = me.accounts.map(({ id, name, role }) => [id === me.accountId ? '*' : '', id, name, role])
      print(command, me, `${describe(me)}\n${table(['', 'ACCOUNT', 'NAME', 'ROLE'], accounts)}`)
    },
  )
}

async function logIn({
  flags,
  auth,
  ask,
  isTerminal,
}: {
  flags: LoginFlags
  auth: Delta['auth']
  ask: ReturnType<typeof createAsk>
  isTerminal: boolean
}): Promise<Session> {
  const { email, code, link } = flags
  const password = link === undefined ? await ask('Password: ', { secret: true }) : ''
  const attempt = (shown: string | undefined) => {
    const second = shown === undefined ? {} : { code: shown }
    if (link !== undefined) return auth.loginByLink({ token: tokenOf(link), ...second })
    return auth.login({ email: email!, password, ...second })
  }
  try {
    return await attempt(code)
  } catch (error) {
    const needsCode = error instanceof DeltaApiError && error.code === 'second_factor_required'
    if (!needsCode || code !== undefined || !isTerminal) throw error
    return attempt(await ask('Code: '))
  }
}

/** The link, or what stands behind `t=` in it. */
function tokenOf(link: string): string {
  const token = link.startsWith('dln_') ? link : URL.parse(link)?.searchParams.get('t')
  if (!token) throw new UsageError(`'${link.slice(0, 80)}' is not a link. Give it whole, as it was printed`)
  return token
}

function describe({ kind, id, user, role }: Me): string {
  if (user) return `${user.email} (${role})`
  return `${kind} ${id}${role === null ? '' : ` (${role})`}`
}

const roles = ['owner', 'admin', 'member', 'viewer'] as const

function addUsers({ user, leaf, delta, print }: PeopleCommandsDeps): void {
  leaf(user, 'add <email>', 'invite somebody into the account')
    .addOption(new Option('--role <role>', 'what they may').choices(roles).default('member'))
    .action(async (email: string, { role }: { role: Role }, command: Command) => {
      const invitation = await delta(command).account.invite(email, role)
      print(
        command,
        invitation,
        `Invited ${invitation.email} as ${role}. Where mails do not arrive: delta user link ${invitation.email}\n`,
      )
    })

  leaf(user, 'list', 'who belongs to the account, and who is invited')
    .alias('ls')
    .action(async (_: unknown, command: Command) => {
      const { account } = delta(command)
      const [members, invitations] = [await account.members(), await account.invitations()]
      const rows = [
        ...members.map(({ userId, email, role, totp }) => [userId, email, role, totp ? 'second factor' : '']),
        ...invitations.map(({ id, email, role }) => [id, email, role, 'invited']),
      ]
      print(command, { members, invitations }, table(['ID', 'E-MAIL', 'ROLE', ''], rows))
    })

  leaf(user, 'role <user> <role>', 'give a member another role: owner, admin, member or viewer').action(
    async (whom: string, role: string, _: unknown, command: Command) => {
      const { account } = delta(command)
      if (!isRole(role)) throw new UsageError(`'${role}' is no role. It is one of ${roles.join(', ')}`)
      const { userId, email } = await findMember(await account.members(), whom)
      await account.changeRole(userId, role)
      print(command, { userId, role }, `${email} is ${role} now\n`)
    },
  )

  leaf(user, 'remove <user>', 'remove a member, or withdraw an invitation')
    .alias('rm')
    .action(async (whom: string, _: unknown, command: Command) => {
      const { account } = delta(command)
      const invitation = (await account.invitations()).find(
        ({ id, email }) => id === whom || email === whom.toLowerCase(),
      )
      if (invitation) {
        await account.withdraw(invitation.id)
        return print(command, { id: invitation.id, removed: true }, `${invitation.email} is not invited any more\n`)
      }
      const { userId, email } = await findMember(await account.members(), whom)
      await account.remove(userId)
      print(command, { userId, removed: true }, `${email} belongs to the account no more\n`)
    })

  leaf(user, 'link <email>', 'for the operator: print a one-time link to log in, confirm or join').action(
    async (email: string, _: unknown, command: Command) => {
      const link = await delta(command).auth.createLink(email)
      print(command, link, `${link.url}\n`)
    },
  )

  leaf(user, 'reset-totp <email>', 'for the operator: take the second factor off somebody who has lost it').action(
    async (email: string, _: unknown, command: Command) => {
      await delta(command).auth.resetTotp(email)
      print(command, { email, totp: false }, `${email} logs in with the password alone now, and is told by mail\n`)
    },
  )

  leaf(user, 'mail', 'for the operator: mails that were sent, or kept because there is no mail server').action(
    async (_: unknown, command: Command) => {
      const mails = await delta(command).auth.mails()
      const text = mails.map(
        ({ to, subject, state, createdAt, text: said }) =>
          `${createdAt}  ${state}  ${to}\n${subject}\n${said === null ? '' : `\n${said}`}`,
      )
      print(command, mails, text.length === 0 ? 'No mails\n' : text.join(`\n${'-'.repeat(60)}\n`))
    },
  )
}

function isRole(text: string): text is Role {
  return (roles as readonly string[]).includes(text)
}

async function findMember(members: MemberInfo[], whom: string): Promise<MemberInfo> {
  const found = members.find(({ userId, email }) => userId === whom || email === whom.toLowerCase())
  if (found) return found
  throw new CliError(
    `Nobody in the account is ${whom}`,
    'Look at `delta user list`, and use the id or the e-mail address.',
  )
}

interface TotpFlags {
  off?: boolean
  newCodes?: boolean
}

function addOwnUser({ io, user, leaf, delta, print }: PeopleCommandsDeps): void {
  leaf(user, 'register <email>', 'ask for a user of your own; a link is sent to the address').action(
    async (email: string, _: unknown, command: Command) => {
      await delta(command).auth.register({ email })
      print(command, { email, sent: true }, `A link is on its way to ${email}, if it has no user yet\n`)
    },
  )

  leaf(user, 'reset <email>', 'ask for a link to choose a new password').action(
    async (email: string, _: unknown, command: Command) => {
      await delta(command).auth.forgotPassword(email)
      print(command, { email, sent: true }, `A link is on its way to ${email}, if it has a user\n`)
    },
  )

  leaf(user, 'sessions', 'your sessions')
    .option('--end <id>', 'end one of them')
    .option('--end-others', 'end all but this one')
    .action(async ({ end, endOthers }: { end?: string; endOthers?: boolean }, command: Command) => {
      const { auth } = delta(command)
      if (end !== undefined) await auth.endSession(end)
      if (endOthers) await auth.endOtherSessions()
      const sessions = await auth.sessions()
      const rows = sessions.map(({ id, current, usedAt, address, client }) => [
        current ? '*' : '',
        id,
        usedAt,
        address,
        client,
      ])
      print(command, sessions, table(['', 'SESSION', 'LAST USED', 'FROM', 'WITH'], rows))
    })

  leaf(user, 'totp', 'turn your second factor on')
    .option('--off', 'turn it off')
    .option('--new-codes', 'make new recovery codes')
    .action(async ({ off, newCodes }: TotpFlags, command: Command) => {
      const { auth } = delta(command)
      const ask = createAsk(io)
      const password = await ask('Password: ', { secret: true })
      if (off) {
        await auth.removeTotp(password)
        return print(command, { totp: false }, 'The second factor is off\n')
      }
      const codes = newCodes ? await auth.replaceRecoveryCodes(password) : await turnOn()
      const list = codes.map((code) => `  ${code}\n`).join('')
      print(
        command,
        { totp: true, recoveryCodes: codes },
        `Recovery codes, each good once. Keep them where you do not keep the app:\n${list}`,
      )

      async function turnOn(): Promise<string[]> {
        const { secret, uri } = await auth.prepareTotp(password)
        io.stderr.write(`Add this to your authenticator app:\n  ${secret}\n  ${uri}\n`)
        return auth.confirmTotp((await ask('Code it shows: ')).trim())
      }
    })
}
