import { DeltaConfigError } from './errors.ts'

/** Runtimes other than Node may have no `process`. */
export function environmentVariable(name: string): string | undefined {
  const value = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env?.[name]
  return value === '' ? undefined : value
}

const isNode = () =>
  typeof (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node === 'string'

/** Only on Node: imports a built-in by a name that bundlers for other runtimes do not follow. */
export async function nodeModule<T>(name: string): Promise<T> {
  if (!isNode()) throw new DeltaConfigError(`This needs Node's ${name}, which this runtime does not have`)
  const specifier = `node:${name}`
  return (await import(/* @vite-ignore */ specifier)) as T
}

const loopbackHosts = new Set(['127.0.0.1', 'localhost', '[::1]'])

/**
 * The key of a server on this machine lies in its data folder. It is read for loopback addresses only: a key must never go to
 * a host it was not made for.
 */
export async function findApiKey(url: string): Promise<string> {
  const fromEnvironment = environmentVariable('DELTA_API_KEY')
  if (fromEnvironment !== undefined) return fromEnvironment.trim()
  if (!loopbackHosts.has(new URL(url).hostname)) {
    throw new DeltaConfigError(`No API key for ${url}: set DELTA_API_KEY or pass { apiKey }`)
  }
  const path = `${environmentVariable('DELTA_DATA_DIR') ?? './data'}/api-key`
  try {
    const { readFile } = await nodeModule<typeof import('node:fs/promises')>('fs/promises')
    const key = (await readFile(path, 'utf8')).trim()
    if (key !== '') return key
  } catch (cause) {
    throw new DeltaConfigError(
      `No API key: DELTA_API_KEY is not set and ${path} cannot be read. Set DELTA_API_KEY, pass { apiKey }, or set DELTA_DATA_DIR to the server's data folder`,
      { cause },
    )
  }
  throw new DeltaConfigError(`No API key: ${path} is empty. Start the server once, or set DELTA_API_KEY`)
}
