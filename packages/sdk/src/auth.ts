import type { ApiKeySource, Transport } from './transport.ts'
import type { LoginLink, MailInfo, Me, Page, SessionInfo, SessionTokens, UserInfo } from './types.ts'

export interface LoginOptions {
  email: string
  password: string
  /** Of the authenticator app, or a recovery code; where the user has a second factor. */
  code?: string
  /** @default the one used last */
  accountId?: string
}

export interface CreateOwnerOptions {
  /** From the link that the first start printed. */
  token: string
  email: string
  password: string
  name?: string
}

/** Tokens as they are answered to programs; with cookies they would be null. */
export type Session = SessionTokens & { accessToken: string; refreshToken: string }

/** Refreshed so long before its end, so that no request is sent with a token that ends on its way. */
const earlyMs = 60_000

/**
 * Users and their sessions.
 *
 * @example
 * const { auth, url } = new Delta()
 * const session = await auth.login({ email: 'ada@example.com', password })
 * const delta = new Delta({ url, apiKey: auth.keep(session) })
 * console.log(await delta.auth.me())
 */
export class Auth {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** Sends a link to the address, by which a password is chosen. Answers alike whether somebody has it or not. */
  register(options: { email: string; name?: string }): Promise<void> {
    return this.#send('/v1/auth/register', options)
  }

  /** By the link of a registration. */
  verify(options: { token: string; password: string }): Promise<Session> {
    return this.#begin('/v1/auth/verify', options)
  }

  /** By the link of the first start. */
  createOwner(options: CreateOwnerOptions): Promise<Session> {
    return this.#begin('/v1/auth/owner', options)
  }

  /** Throws `second_factor_required` where `code` is missing. */
  login(options: LoginOptions): Promise<Session> {
    return this.#begin('/v1/auth/login', options)
  }

  /** By a link that the operator handed out. */
  loginByLink(options: { token: string; code?: string }): Promise<Session> {
    return this.#begin('/v1/auth/link', options)
  }

  /** With the password of a user that has the address, or one that is chosen. */
  acceptInvitation(options: { token: string; password: string; code?: string; name?: string }): Promise<Session> {
    return this.#begin('/v1/auth/invitation', options)
  }

  /** A refresh token is good once: keep what comes back. Never repeated by itself, since that looks like a thief. */
  refresh(refreshToken: string): Promise<Session> {
    return this.#begin('/v1/auth/refresh', { refreshToken })
  }

  /**
   * A session as `apiKey`, refreshed before its token ends, once for all requests that wait for it. `onRefresh` is where the new tokens are to be saved: those of before are
   * over.
   */
  keep(session: Session, { onRefresh }: { onRefresh?: (session: Session) => void | Promise<void> } = {}): ApiKeySource {
    let current = session
    let refreshing: Promise<void> | undefined
    const renew = async () => {
      current = await this.refresh(current.refreshToken)
      await onRefresh?.(current)
    }
    return async () => {
      if (Date.parse(current.expiresAt) - Date.now() <= earlyMs) {
        refreshing ??= renew().finally(() => (refreshing = undefined))
        await refreshing
      }
      return current.accessToken
    }
  }

  /** Without a token, the session that this client speaks for. */
  logout(refreshToken?: string): Promise<void> {
    const json = refreshToken === undefined ? {} : { refreshToken }
    const anonymous = refreshToken !== undefined
    return this.#transport.done({ method: 'POST', path: '/v1/auth/logout', json, anonymous })
  }

  /** A token for another of the user's accounts; the refresh token stays the same. */
  switchAccount(accountId: string): Promise<SessionTokens> {
    return this.#transport.json<SessionTokens>({ method: 'POST', path: '/v1/auth/switch', json: { accountId } })
  }

  /** Sends a link by which a new password is chosen, if somebody has the address. */
  forgotPassword(email: string): Promise<void> {
    return this.#send('/v1/auth/password/forgot', { email })
  }

  /** By that link. Ends all sessions. */
  resetPassword(options: { token: string; password: string }): Promise<void> {
    return this.#send('/v1/auth/password/reset', options)
  }

  /** Ends all other sessions. */
  changePassword(json: { password: string; newPassword: string }): Promise<void> {
    return this.#transport.done({ method: 'POST', path: '/v1/auth/password/change', json })
  }

  /** Begins to set up a second factor; `confirmTotp` turns it on. */
  prepareTotp(password: string): Promise<{ secret: string; uri: string }> {
    return this.#transport.json({ method: 'POST', path: '/v1/auth/totp', json: { password } })
  }

  /** Answers with the recovery codes, which are shown only here. */
  async confirmTotp(code: string): Promise<string[]> {
    return this.#codes('/v1/auth/totp/confirm', { code })
  }

  /** Those of before are over. */
  async replaceRecoveryCodes(password: string): Promise<string[]> {
    return this.#codes('/v1/auth/totp/recovery-codes', { password })
  }

  removeTotp(password: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: '/v1/auth/totp', json: { password } })
  }

  /** Who this client speaks for: a user, a key or an agent. */
  me(): Promise<Me> {
    return this.#transport.json<Me>({ path: '/v1/users/me' })
  }

  rename(name: string): Promise<UserInfo> {
    return this.#transport.json<UserInfo>({ method: 'PATCH', path: '/v1/users/me', json: { name } })
  }

  async sessions(): Promise<SessionInfo[]> {
    const page = await this.#transport.json<Page<SessionInfo>>({ path: '/v1/sessions' })
    return page.data
  }

  endSession(id: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: `/v1/sessions/${encodeURIComponent(id)}` })
  }

  endOtherSessions(): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: '/v1/sessions' })
  }

  /** For the operator: a one-time link for somebody whom mails do not reach. */
  createLink(email: string): Promise<LoginLink> {
    return this.#transport.json<LoginLink>({ method: 'POST', path: '/v1/users/links', json: { email } })
  }

  /** For the operator: takes the second factor off somebody who has lost it, who is told by mail. */
  resetTotp(email: string): Promise<void> {
    return this.#transport.done({ method: 'POST', path: '/v1/users/totp/reset', json: { email } })
  }

  /** For the operator: mails that were sent, and those that are kept because there is no mail server. */
  async mails(): Promise<MailInfo[]> {
    const page = await this.#transport.json<Page<MailInfo>>({ path: '/v1/mail' })
    return page.data
  }

  #begin(path: string, json: object): Promise<Session> {
    return this.#transport.json<Session>({ method: 'POST', path, json, anonymous: true })
  }

  #send(path: string, json: object): Promise<void> {
    return this.#transport.done({ method: 'POST', path, json, anonymous: true })
  }

  async #codes(path: string, json: object): Promise<string[]> {
    const answer = await this.#transport.json<{ recoveryCodes: string[] }>({ method: 'POST', path, json })
    return answer.recoveryCodes
  }
}
