import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'

/** A tar of files, by the system's tar. */
export function tarOf(folder: string, files: Record<string, string>): Buffer {
  const root = mkdtempSync(join(folder, 'tar-'))
  chmodSync(root, 0o755)
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), content)
  }
  return packed(root)
}

/** A shell and a few programs with their libraries: what a small image holds. */
export function tinySystem(folder: string): Buffer {
  const root = mkdtempSync(join(folder, 'tiny-'))
  // It becomes the mode of `/`.
  chmodSync(root, 0o755)
  const programs = { sh: 'dash', cat: 'cat', ls: 'ls', id: 'id', cut: 'cut', ln: 'ln' }
  for (const [name, source] of Object.entries(programs)) {
    const from = execFileSync('sh', ['-c', `command -v ${source}`], { encoding: 'utf8' }).trim()
    copyProgram(root, from, `/bin/${name}`)
  }
  mkdirSync(join(root, 'etc'))
  writeFileSync(join(root, 'etc/removed'), 'x')
  return packed(root)
}

/** What the programs in `history/` import. */
const imported = 'errno, hashlib, json, os, random, shutil, stat, sys, sysconfig'

/** A shell and the system's Python, with the modules that the tests' programs load and no other. */
export function pythonSystem(folder: string): Buffer {
  const root = mkdtempSync(join(folder, 'python-'))
  chmodSync(root, 0o755)
  copyProgram(root, '/bin/sh', '/bin/sh')
  copyProgram(root, '/usr/bin/python3', '/usr/bin/python3')
  const ask = `import ${imported}; print(sysconfig.get_path('stdlib'), *(getattr(one, '__file__', None) or '' for one in list(sys.modules.values())), sep='\\n')`
  const [library = '', ...files] = execFileSync('/usr/bin/python3', ['-c', ask], { encoding: 'utf8' }).split('\n')
  const needed = files.filter((file) => file.startsWith(`${library}/`) && !file.includes('/dist-packages/'))
  for (const file of needed) copyInto(root, file, file)
  cpSync(join(library, 'encodings'), join(root, library, 'encodings'), { recursive: true })
  return packed(root)
}

function packed(root: string): Buffer {
  const tar = execFileSync('tar', ['-C', root, '--owner=0', '--group=0', '-cf', '-', '.'], { maxBuffer: 2 ** 28 })
  rmSync(root, { recursive: true })
  return tar
}

function copyProgram(root: string, from: string, to: string): void {
  copyInto(root, from, to)
  for (const [library] of execFileSync('ldd', [realpathSync(from)], { encoding: 'utf8' }).matchAll(/\/\S+/g))
    copyInto(root, library, library)
}

function copyInto(root: string, from: string, to: string): void {
  mkdirSync(dirname(join(root, to)), { recursive: true })
  copyFileSync(realpathSync(from), join(root, to))
  chmodSync(join(root, to), 0o755)
}

/** An image of one layer, as an archive. `lies`: its bytes are not its digest's. */
export function ociArchive(folder: string, layer: Buffer, { lies = false, path = '/bin' } = {}): Buffer {
  const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
  const architecture = process.arch === 'x64' ? 'amd64' : 'arm64'
  const config = Buffer.from(
    JSON.stringify({
      os: 'linux',
      architecture,
      config: { Env: [`PATH=${path}`, 'APP=archived app'] },
      rootfs: { type: 'layers', diff_ids: [`sha256:${digest(layer)}`] },
    }),
  )
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        digest: `sha256:${digest(config)}`,
        size: config.length,
      },
      layers: [
        { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: `sha256:${digest(layer)}`, size: layer.length },
      ],
    }),
  )
  const index = {
    schemaVersion: 2,
    manifests: [
      {
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        digest: `sha256:${digest(manifest)}`,
        size: manifest.length,
      },
    ],
  }
  const root = mkdtempSync(join(folder, 'oci-'))
  mkdirSync(join(root, 'blobs/sha256'), { recursive: true })
  for (const blob of [config, manifest]) writeFileSync(join(root, 'blobs/sha256', digest(blob)), blob)
  const sent = Buffer.from(layer)
  if (lies) sent[sent.length - 2_000] = 0x41
  writeFileSync(join(root, 'blobs/sha256', digest(layer)), sent)
  writeFileSync(join(root, 'index.json'), JSON.stringify(index))
  writeFileSync(join(root, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  execFileSync('tar', ['-C', root, '-cf', join(root, '../image.tar'), '.'])
  return readFileSync(join(root, '../image.tar'))
}
