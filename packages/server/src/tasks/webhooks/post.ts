import { type ConnectSocket, requestOnce } from '../../kernel/http/request-once.ts'
import { webhookLimits } from './limits.ts'

export interface Network {
  /** To public addresses, and those that the operator lists. */
  connect: ConnectSocket
  /** To those that the operator lists alone. */
  connectListed: ConnectSocket
  /** Where a name leads, without a packet to it. `unknown`: nobody could say now. */
  judge(host: string): Promise<'public' | 'listed' | 'refused' | 'unknown'>
  /** Extra authorities, for tests. */
  ca?: string | undefined
}

export interface Posted {
  status: number
  retryAfter: string | undefined
}

/** One POST, of whose answer only the head is read. Nothing is followed. */
export async function post(
  { connect, connectListed, ca }: Network,
  { url, headers, body, signal }: { url: URL; headers: Record<string, string>; body: string; signal: AbortSignal },
): Promise<Posted> {
  // What is not encrypted stays where the operator says.
  const answer = await requestOnce(url.protocol === 'https:' ? connect : connectListed, {
    url,
    method: 'POST',
    headers: { 'User-Agent': 'delta-webhooks', 'Content-Type': 'application/json', ...headers },
    body: Buffer.from(body),
    signal,
    headBytes: webhookLimits.headBytes,
    ca,
  })
  answer.body.destroy()
  return { status: answer.status, retryAfter: answer.headers['retry-after'] }
}
