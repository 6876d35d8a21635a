import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { freePort } from '../e2e/platform.ts'
import { createSandbox, remove } from './client.ts'
import { type Figure, figure } from './figures.ts'
import type { Bench } from './run.ts'

const inside = 3000
const connections = 32
const rounds = 7
const roundMs = 1_500
/** The same program inside and outside. */
const server = (port: number) =>
  `require('http').createServer((q, r) => r.end('hello world')).listen(${port}, '127.0.0.1')`
// Not the one this bench runs with, which no sandbox sees: the machine's own is in the template.
const node = '/usr/bin/node'

/** Small answers through a port with an access token, against the same server without anything between. */
export async function portRequests(bench: Bench): Promise<Figure[]> {
  const { client } = await bench.platform({ runtime: 'crun' })
  const { id } = await createSandbox(client)
  const outside = await freePort()
  const rival = spawn(node, ['-e', server(outside)], { stdio: 'inherit' })
  try {
    const cmd = [node, '-e', server(inside)]
    await client.call('POST', `/v1/sandboxes/${id}/execs`, { cmd, background: true })
    const path = `/v1/sandboxes/${id}/access-tokens`
    const { token } = await client.call<{ token: string }>('POST', path, { scopes: [`port:${inside}`] })
    const host = `${inside}-${id.replace('_', '-')}.localhost:${client.port}`
    const mine = request(host, `X-Delta-Access-Token: ${token}\r\n`)
    const theirs = request(`127.0.0.1:${outside}`, '')
    await answers(Number(client.port), mine)
    await answers(outside, theirs)
    const ours: number[] = []
    const direct: number[] = []
    for (let round = -1; round < rounds; round++) {
      const rateDirect = await rate(outside, theirs)
      const rateOurs = await rate(Number(client.port), mine)
      if (round < 0) continue
      direct.push(rateDirect)
      ours.push(rateOurs)
    }
    return [
      figure({
        name: 'requests through a port',
        unit: 'requests/s',
        samples: ours,
        rival: { name: 'the same server outside, 32 connections', samples: direct },
        bar: '≥ 0.25 × rival',
        holds: ({ ratio }) => ratio !== null && ratio >= 0.25,
      }),
    ]
  } finally {
    rival.kill()
    await remove(client, id)
  }
}

function request(host: string, more: string): Buffer {
  return Buffer.from(`GET / HTTP/1.1\r\nHost: ${host}\r\nAccept: */*\r\nUser-Agent: bench\r\n${more}\r\n`)
}

/** Waits until the server answers, with 200. */
async function answers(port: number, asked: Buffer): Promise<void> {
  for (let tries = 0; ; tries++) {
    const status = await once200(port, asked).catch(() => '')
    if (status.startsWith('HTTP/1.1 200 ')) return
    if (tries > 100) throw new Error(`port ${port} answers ${status}`)
    await new Promise((done) => setTimeout(done, 100))
  }
}

async function once200(port: number, asked: Buffer): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  try {
    socket.write(asked)
    return String((await once(socket, 'data'))[0])
  } finally {
    socket.destroy()
  }
}

/** Answers a second on kept-alive connections, each with one request under way. All answers are of one length, so counting bytes counts them. */
async function rate(port: number, asked: Buffer): Promise<number> {
  const length = await answerBytes(port, asked)
  let done = 0
  let broken: Error | undefined
  const sockets = Array.from({ length: connections }, () => {
    const socket = connect(port, '127.0.0.1')
    socket.setNoDelay(true)
    let got = 0
    socket.on('data', (chunk: Buffer) => {
      got += chunk.length
      if (got < length) return
      if (got > length) broken ??= new Error('an answer has another length')
      got = 0
      done += 1
      socket.write(asked)
    })
    socket.on('error', (error) => (broken ??= error))
    socket.write(asked)
    return socket
  })
  const startedAt = performance.now()
  await new Promise((end) => setTimeout(end, roundMs))
  const perSecond = (done / (performance.now() - startedAt)) * 1_000
  for (const socket of sockets) socket.destroy()
  if (broken) throw broken
  return perSecond
}

async function answerBytes(port: number, asked: Buffer): Promise<number> {
  const socket = connect(port, '127.0.0.1')
  try {
    socket.write(asked)
    let text = ''
    for (;;) {
      text += String((await once(socket, 'data'))[0])
      const head = text.indexOf('\r\n\r\n')
      const body = Number(/content-length: (\d+)/i.exec(text)?.[1])
      if (head > 0 && text.length >= head + 4 + body) return head + 4 + body
    }
  } finally {
    socket.destroy()
  }
}
