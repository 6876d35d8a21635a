import { Agent, request } from 'node:http'

export interface Answer<T> {
  status: number
  body: T
}

export type Client = ReturnType<typeof createClient>

/** The thinnest REST client there is: kept-alive connections of node:http, so that what is measured is the server. */
export function createClient({ url, key }: { url: string; key: string }) {
  const agent = new Agent({ keepAlive: true, maxSockets: 256 })
  const { hostname, port } = new URL(url)

  async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const { status, body: text } = await send(
      method,
      path,
      body === undefined ? undefined : Buffer.from(JSON.stringify(body)),
    )
    if (status >= 300) throw new Error(`${method} ${path} answered ${status}: ${text.slice(0, 500)}`)
    return (text === '' ? undefined : JSON.parse(text)) as T
  }

  async function page(path: string): Promise<string> {
    const { status, body } = await send('GET', path)
    if (status !== 200) throw new Error(`GET ${path} answered ${status}: ${body.slice(0, 500)}`)
    return body
  }

  function send(method: string, path: string, body?: Buffer): Promise<Answer<string>> {
    return new Promise((done, fail) => {
      const sent = request(
        {
          agent,
          hostname,
          port,
          method,
          path,
          headers: {
            authorization: `Bearer ${key}`,
            ...(body && { 'content-type': 'application/json', 'content-length': body.length }),
          },
        },
        (answer) => {
          const chunks: Buffer[] = []
          answer.on('data', (chunk: Buffer) => chunks.push(chunk))
          answer.on('end', () => done({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString() }))
          answer.on('error', fail)
        },
      )
      sent.on('error', fail)
      sent.end(body)
    })
  }

  return { call, page, agent, hostname, port, key, close: () => agent.destroy() }
}

export interface SandboxAnswer {
  id: string
  timings?: { phase: string; micros: number }[]
}

export async function createSandbox(client: Client, body: object = {}): Promise<SandboxAnswer> {
  return client.call<SandboxAnswer>('POST', '/v1/sandboxes', { timeoutMs: 3_600_000, ...body })
}

export async function execTrue(client: Client, id: string): Promise<void> {
  const exec = await client.call<{ exitCode: number }>('POST', `/v1/sandboxes/${id}/execs`, { cmd: ['/bin/true'] })
  if (exec.exitCode !== 0) throw new Error(`/bin/true in ${id} ended with ${JSON.stringify(exec)}`)
}

export async function remove(client: Client, id: string): Promise<void> {
  await client.call('DELETE', `/v1/sandboxes/${id}`)
}

export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}
