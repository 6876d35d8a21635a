import { expect, test } from 'vitest'
import { delta, key, request, url } from './target.ts'

/** As a browser would: no header of its own, the key among the protocols. */
function connect(path: string): WebSocket {
  const bearer = `delta.bearer.${Buffer.from(key).toString('base64url')}`
  const socket = new WebSocket(`${url.replace('http', 'ws')}${path}`, ['delta.terminal.v1', bearer])
  socket.binaryType = 'arraybuffer'
  return socket
}

test('a WebSocket types into a terminal and reads what it says', async () => {
  await using sandbox = await delta.sandboxes.create()
  const base = `/v1/sandboxes/${sandbox.id}/terminals`
  const headers = { 'content-type': 'application/json' }
  const answer = await request(base, { method: 'POST', headers, body: JSON.stringify({ cols: 100, rows: 30 }) })
  expect(answer.status).toBe(201)
  const { id } = (await answer.json()) as { id: string }
  const socket = connect(`${base}/${id}/connect`)
  let text = ''
  const notices: Record<string, unknown>[] = []
  socket.addEventListener('open', () => socket.send(Buffer.from('stty size; whoami; exit 5\n')))
  socket.addEventListener('message', (event) => {
    const data = event.data as string | ArrayBuffer
    if (typeof data === 'string') notices.push(JSON.parse(data) as Record<string, unknown>)
    else text += Buffer.from(data).toString()
  })
  const { code } = await new Promise<CloseEvent>((resolve) => socket.addEventListener('close', resolve))
  expect([code, socket.protocol]).toEqual([1000, 'delta.terminal.v1'])
  expect(text).toMatch(/30 100\r\nuser\r\n/)
  expect(notices.at(-1)).toMatchObject({ type: 'exit', exitCode: 5 })
})
