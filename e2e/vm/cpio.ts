/** What the kernel unpacks as its first root: cpio "newc", written by hand because it is thirty lines and cpio is rarely installed. */
export type CpioEntry =
  | { path: string; kind: 'folder' }
  | { path: string; kind: 'link'; target: string }
  | { path: string; kind: 'file'; bytes: Buffer; mode: number }
  | { path: string; kind: 'console' }

const types = { folder: 0o040000, link: 0o120000, file: 0o100000, console: 0o020000 }

export function packCpio(entries: CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => member(entry, index + 1))
  return Buffer.concat([...parts, ...member({ path: 'TRAILER!!!', kind: 'file', bytes: Buffer.alloc(0), mode: 0 }, 0)])
}

function member(entry: CpioEntry, inode: number): Buffer[] {
  const name = Buffer.from(`${entry.path.replace(/^\/+/, '')}\0`)
  const body = entry.kind === 'file' ? entry.bytes : Buffer.from(entry.kind === 'link' ? entry.target : '')
  const mode = types[entry.kind] | (entry.kind === 'file' ? entry.mode : entry.kind === 'console' ? 0o600 : 0o755)
  const device = entry.kind === 'console' ? [5, 1] : [0, 0]
  const fields = [inode, mode, 0, 0, 1, 0, body.length, 0, 0, ...device, name.length, 0]
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  return [header, name, padding(header.length + name.length), body, padding(body.length)]
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4)
}
