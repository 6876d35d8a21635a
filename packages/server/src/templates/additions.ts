/** What every sandbox relies on and an image need not have: the user, their folders, and names that lead to the guest. */

export interface Existing {
  /** Types of paths that are there, without the leading slash. */
  types: ReadonlyMap<string, 'file' | 'directory' | 'symlink' | 'other'>
  passwd: string
  group: string
}

export interface Addition {
  path: string
  type: 'file' | 'directory'
  mode: number
  uid: number
  content: string
}

/** Paths whose kind decides what is added. */
export const lookedAt = [
  'etc',
  'etc/passwd',
  'etc/group',
  'home',
  'home/user',
  'workspace',
  'tmp',
  'root',
  'bin/bash',
  'usr/bin/bash',
  'bin/sh',
  'usr/bin/sh',
]

const hosts = '127.0.0.1\tlocalhost\n127.0.0.1\tsandbox\n::1\tlocalhost ip6-localhost\n'
const uid = 1000

/** Undefined: the image is built in a way that leaves no place for them. */
export function additionsFor({ types, passwd, group }: Existing): Addition[] | undefined {
  const isFolder = (path: string) => types.get(path) === undefined || types.get(path) === 'directory'
  if (
    !isFolder('etc') ||
    !isFolder('home') ||
    types.get('etc/passwd') === 'symlink' ||
    types.get('etc/group') === 'symlink'
  ) {
    return undefined
  }
  const added: Addition[] = []
  const folder = (path: string, mode: number, owner: number) => {
    if (!types.has(path)) added.push({ path, type: 'directory', mode, uid: owner, content: '' })
  }
  const file = (path: string, content: string) => added.push({ path, type: 'file', mode: 0o644, uid: 0, content })
  folder('etc', 0o755, 0)
  folder('home', 0o755, 0)
  folder('home/user', 0o755, uid)
  folder('workspace', 0o755, uid)
  folder('root', 0o700, 0)
  folder('tmp', 0o1777, 0)
  const shell = ['bin/bash', 'usr/bin/bash'].some((path) => types.has(path)) ? '/bin/bash' : '/bin/sh'
  const root = has(passwd, 'root') ? '' : `root:x:0:0:root:/root:${shell}\n`
  const user = has(passwd, 'user') ? '' : `user:x:${uid}:${uid}:user:/home/user:${shell}\n`
  if (root + user !== '') file('etc/passwd', ended(passwd) + root + user)
  const rootGroup = has(group, 'root') ? '' : 'root:x:0:\n'
  const userGroup = has(group, 'user') ? '' : `user:x:${uid}:\n`
  if (rootGroup + userGroup !== '') file('etc/group', ended(group) + rootGroup + userGroup)
  file('etc/hosts', hosts)
  file('etc/resolv.conf', 'nameserver 127.0.0.1\n')
  return added
}

function has(text: string, name: string): boolean {
  return text.split('\n').some((line) => line.startsWith(`${name}:`))
}

function ended(text: string): string {
  return text === '' || text.endsWith('\n') ? text : `${text}\n`
}

const block = 512

/** As an uncompressed layer. Times are the beginning of time, so that the same additions are the same bytes. */
export function layerOf(additions: readonly Addition[]): Buffer {
  const parts = additions.flatMap(({ path, type, mode, uid: owner, content }) => {
    const body = Buffer.from(content)
    const header = Buffer.alloc(block)
    header.write(type === 'directory' ? `${path}/` : path, 0)
    header.write(
      `${octal(mode, 7)}\0${octal(owner, 7)}\0${octal(owner, 7)}\0${octal(body.length, 11)}\0${octal(0, 11)}\0`,
      100,
    )
    header.write('        ', 148)
    header.write(type === 'directory' ? '5' : '0', 156)
    header.write('ustar\x0000', 257)
    const sum = header.reduce((total, byte) => total + byte, 0)
    header.write(`${octal(sum, 6)}\0 `, 148)
    return [header, body, Buffer.alloc((block - (body.length % block)) % block)]
  })
  return Buffer.concat([...parts, Buffer.alloc(2 * block)])
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, '0')
}
