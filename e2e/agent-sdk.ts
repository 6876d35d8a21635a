import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const build = resolve(import.meta.dirname, '../.build')
const version = '0.3.330'
const scope = '@anthropic-ai'

/** As the registry gives them; whatever else comes is not unpacked. */
const packages: Readonly<Record<string, string>> = {
  'claude-agent-sdk': 'sha512-7om9Xus6tfkeCUCfzg6ilJuN6Z7okkEvJ0mx+ukXa/Id5U/6BGtPkOYni+3ebedwa3b9SVF7A05+ln+/9EoU/w==',
  [`claude-agent-sdk-linux-${process.arch}`]:
    process.arch === 'arm64'
      ? 'sha512-2Q+kfzaoTvJv1rsyu+iR4UHDZ3nxiOfdXISk+2ydQShU9DqXNlgQAt3BdJMh0Yx4MrxB66TMphVvVQeRslwwhA=='
      : 'sha512-9w4uMdA3vNZXocwOUhivOGotXoRDxN/C/xPMkZMY9WPpKLAlj8upMZskNgPjQKlVRXhxPfNagcBijGPUH4WepA==',
}

/**
 * A folder `node_modules` with the Claude Agent SDK, which is Anthropic's and no part of DELTA: fetched once for the tests, from the registry that npm is set to, and left in `.build`, which is
 * neither shipped nor kept in the repository.
 */
export async function provideAgentSdk(): Promise<string> {
  const folder = join(build, `claude-agent-sdk-${version}`)
  if (existsSync(folder)) return folder
  mkdirSync(build, { recursive: true })
  const making = mkdtempSync(join(build, 'claude-agent-sdk-'))
  try {
    for (const [name, integrity] of Object.entries(packages)) {
      const { stdout } = await run('npm', ['pack', '--silent', `${scope}/${name}@${version}`], { cwd: making })
      const archive = join(making, stdout.trim().split('\n').at(-1)!)
      const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`
      if (found !== integrity) throw new Error(`${name}@${version} is ${found}, and not ${integrity}`)
      const place = join(making, 'node_modules', scope, name)
      mkdirSync(dirname(place), { recursive: true })
      await run('tar', ['-xf', archive, '-C', making, '--no-same-owner'])
      renameSync(join(making, 'package'), place)
      rmSync(archive)
    }
    renameSync(join(making, 'node_modules'), folder)
  } finally {
    rmSync(making, { recursive: true, force: true })
  }
  return folder
}
