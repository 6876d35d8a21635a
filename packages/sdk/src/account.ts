import type { Transport } from './transport.ts'
import type { AccountInfo, InvitationInfo, MemberInfo, Page, Role } from './types.ts'

/**
 * The account that this client speaks for, and who belongs to it.
 *
 * @example
 * await delta.account.invite('bob@example.com', 'member')
 * for (const { email, role } of await delta.account.members()) console.log(email, role)
 */
export class Account {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  get(): Promise<AccountInfo> {
    return this.#transport.json<AccountInfo>({ path: '/v1/account' })
  }

  rename(name: string): Promise<AccountInfo> {
    return this.#transport.json<AccountInfo>({ method: 'PATCH', path: '/v1/account', json: { name } })
  }

  async members(): Promise<MemberInfo[]> {
    const page = await this.#transport.json<Page<MemberInfo>>({ path: '/v1/account/members' })
    return page.data
  }

  changeRole(userId: string, role: Role): Promise<void> {
    return this.#transport.done({ method: 'PATCH', path: memberPath(userId), json: { role } })
  }

  remove(userId: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: memberPath(userId) })
  }

  /** The last owner cannot. */
  leave(): Promise<void> {
    return this.#transport.done({ method: 'POST', path: '/v1/account/leave' })
  }

  /** Sends a link to the address. Again to the same one replaces the invitation of before. */
  invite(email: string, role: Role = 'member'): Promise<InvitationInfo> {
    return this.#transport.json<InvitationInfo>({ method: 'POST', path: '/v1/invitations', json: { email, role } })
  }

  async invitations(): Promise<InvitationInfo[]> {
    const page = await this.#transport.json<Page<InvitationInfo>>({ path: '/v1/invitations' })
    return page.data
  }

  withdraw(invitationId: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: `/v1/invitations/${encodeURIComponent(invitationId)}` })
  }
}

const memberPath = (userId: string) => `/v1/account/members/${encodeURIComponent(userId)}`
