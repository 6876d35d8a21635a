import { execFile } from 'node:child_process'
import { lookup } from 'node:dns/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

/** Tests in the template debian, which is built from packages the first time, belong to the long form. */
export const isLongForm = process.env['DELTA_TEST_ALL'] === '1'
export const longFormOnly = 'long form only: npm run test:all'

const cache = resolve(import.meta.dirname, '../.build')
const mirrors = ['deb.debian.org', 'archive.ubuntu.com', 'security.ubuntu.com']
export const registries = ['deb.debian.org', 'pypi.org', 'files.pythonhosted.org', 'registry.npmjs.org']

/** Into the folder that the data folders of all tests share; quick where it is there. */
export async function buildDebian(): Promise<void> {
  const env = { ...process.env, DELTA_DATA_DIR: cache, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` }
  for (const name of ['host', 'debian'])
    await promisify(execFile)(join(cache, 'bin/delta-helper'), ['template', 'build', name], {
      env,
      maxBuffer: 64 * 1024 * 1024,
    })
}

/** For the common platform. Where this machine's registries have addresses that are not public, their operator would list them as well. */
export async function debianSettings(): Promise<NodeJS.ProcessEnv> {
  const names = new Set([...mirrors, ...registries])
  const found = await Promise.all(Array.from(names, (name) => lookup(name, { all: true }).catch(() => [])))
  const addresses = found.flat().map(({ address, family }) => `${address}/${family === 4 ? 32 : 128}`)
  return {
    DELTA_EGRESS_ALLOW_CIDRS: ['127.0.0.1/32', ...new Set(addresses)].join(','),
    DELTA_EGRESS_HOSTS: 'origin.test=127.0.0.1,other.test=127.0.0.1',
  }
}

/** Those that this machine cannot resolve. */
export async function unknownRegistries(): Promise<Set<string>> {
  const unknown = await Promise.all(
    registries.map((name) =>
      lookup(name).then(
        () => [],
        () => [name],
      ),
    ),
  )
  return new Set(unknown.flat())
}
