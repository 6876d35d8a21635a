import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, normalize } from 'node:path'

/** What stands for the outside: registries of every kind on one machine, the host's loopback. */
export interface Origin {
  /** HTTP: `/hello`, `/headers`, `/stream` (which never ends), and registries below `/apt`, `/simple`, `/npm`, `/repo.git`. */
  http: number
  /** Answers with what it gets in upper case. */
  tcp: number
  /** Connections that reached it so far. */
  connections(): number
  close(): Promise<void>
}

export async function startOrigin(): Promise<Origin> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-origin-'))
  makeRegistries(folder)
  let connections = 0
  const http = createHttpServer((request, response) => answer(request, response, folder))
  const tcp = createTcpServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => socket.write(chunk.toString().toUpperCase()))
  })
  for (const server of [http, tcp]) {
    server.on('connection', () => (connections += 1))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
  }
  return {
    http: portOf(http),
    tcp: portOf(tcp),
    connections: () => connections,
    async close() {
      http.closeAllConnections()
      tcp.close()
      http.close()
      await once(http, 'close')
      rmSync(folder, { recursive: true })
    },
  }
}

function portOf(server: Pick<Server, 'address'>): number {
  return (server.address() as AddressInfo).port
}

function answer(request: IncomingMessage, response: ServerResponse, folder: string): void {
  const { pathname } = new URL(request.url ?? '/', 'http://origin')
  if (pathname === '/hello') return void response.end('hello from outside\n')
  if (pathname === '/headers') return void response.end(JSON.stringify(request.headers))
  if (pathname === '/stream') return void response.write('begin\n')
  try {
    const path = join(folder, normalize(pathname))
    const body = readFileSync(statSync(path).isDirectory() ? join(path, 'index.html') : path, 'utf8')
    if (!/\.(html|json)$|\/$|npm/.test(pathname)) return void response.end(readFileSync(path))
    response.setHeader('content-type', pathname.startsWith('/npm') ? 'application/json' : 'text/html')
    response.end(body.replaceAll('http://origin', `http://${request.headers.host}`))
  } catch {
    response.writeHead(404).end()
  }
}

// ── registries ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The thinnest thing that apt, pip, npm and git take for one of theirs. */
function makeRegistries(folder: string): void {
  const put = (path: string, text: string | Buffer): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  const pack = (name: string, top: string): Buffer => {
    const file = join(folder, name)
    execFileSync('tar', ['-czf', file, '-C', join(folder, 'made'), top])
    return readFileSync(file)
  }

  const packages =
    'Package: tiny-box\nVersion: 1.0\nArchitecture: all\nMaintainer: none\nFilename: tiny-box.deb\nSize: 1\nDescription: nothing\n'
  const lists = ['all', 'amd64', 'arm64'].map((name) => `main/binary-${name}/Packages`)
  for (const list of lists) put(`apt/dists/tiny/${list}`, packages)
  const sums = lists.map(
    (list) => ` ${createHash('sha256').update(packages).digest('hex')} ${packages.length} ${list}\n`,
  )
  put(
    'apt/dists/tiny/Release',
    `Suite: tiny\nCodename: tiny\nArchitectures: all amd64 arm64\nComponents: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n${sums.join('')}`,
  )

  put('made/tiny-box-1.0.0/PKG-INFO', 'Metadata-Version: 1.0\nName: tiny-box\nVersion: 1.0.0\n')
  pack('tiny-box-1.0.0.tar.gz', 'tiny-box-1.0.0')
  put('simple/tiny-box/index.html', '<!DOCTYPE html><a href="/tiny-box-1.0.0.tar.gz">tiny-box-1.0.0.tar.gz</a>')

  put('made/package/package.json', JSON.stringify({ name: 'tiny-box', version: '1.0.0', main: 'index.js' }))
  put('made/package/index.js', 'module.exports = 42\n')
  const integrity = `sha512-${createHash('sha512').update(pack('tiny-box-1.0.0.tgz', 'package')).digest('base64')}`
  const dist = { tarball: 'http://origin/tiny-box-1.0.0.tgz', integrity }
  const version = { name: 'tiny-box', version: '1.0.0', dist }
  put(
    'npm/tiny-box',
    JSON.stringify({ name: 'tiny-box', 'dist-tags': { latest: '1.0.0' }, versions: { '1.0.0': version } }),
  )

  const git = (...args: string[]) =>
    execFileSync('git', ['-c', 'user.name=t', '-c', 'user.email=t@example.org', ...args], {
      cwd: join(folder, 'made'),
      stdio: 'ignore',
    })
  git('init', '-q', '-b', 'main', '.')
  git('add', 'package')
  git('commit', '-qm', 'first')
  git('clone', '-q', '--bare', '.', join(folder, 'repo.git'))
  git('-C', join(folder, 'repo.git'), 'update-server-info')
}
