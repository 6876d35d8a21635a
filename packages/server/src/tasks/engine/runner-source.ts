import { readFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'

const isSource = import.meta.url.endsWith('.ts')
const url = new URL(isSource ? './runner.ts' : './engine-runner.mjs', import.meta.url)
let source: string | undefined

/** What runs in the sandbox, as JavaScript. */
export function runnerSource(): string {
  source ??= isSource ? stripTypeScriptTypes(readFileSync(url, 'utf8')) : readFileSync(url, 'utf8')
  return source
}
