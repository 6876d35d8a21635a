// Reads a `.env` file. Plain JavaScript for Node 18: the set-up runs before anything is installed.
import { readFileSync, statSync } from 'node:fs'

const mostBytes = 64 * 1024

/** Sets what the file says and the environment does not: what is there already wins, also where it is empty. A file that is not there is no fault. */
export function readEnvFile(path, env, warn = () => {}) {
  let text
  try {
    const { size, mode } = statSync(path)
    if (size > mostBytes) throw new Error(`${path} is larger than ${mostBytes} bytes`)
    if ((mode & 0o077) !== 0) warn(`${path} is open to other users and may hold secrets: chmod 600 ${path}`)
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if (error.code === 'ENOENT') return
    throw error
  }
  for (const [name, value] of Object.entries(parseEnvFile(text, path))) if (env[name] === undefined) env[name] = value
}

/** That of this folder. A wrong one ends the program with one line that says what is wrong: it is a person's slip, no fault of the program's. */
export function takeEnvFile(env) {
  try {
    readEnvFile('.env', env)
  } catch (error) {
    process.stderr.write(`${error.message}\n`)
    process.exit(1)
  }
}

/** `NAME=value`, a line each: `#` begins a comment, `export` may stand before it, quotes keep what is between them. Nothing is expanded. */
export function parseEnvFile(text, path = '.env') {
  const found = {}
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (/^\s*(#.*)?$/.test(line)) continue
    const [, name, rest] = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$/.exec(line) ?? []
    const value = name === undefined ? undefined : valueOf(rest)
    // The line is not repeated: it may hold a secret.
    if (value === undefined) throw new Error(`${path}, line ${index + 1}, is not NAME=value`)
    found[name] = value
  }
  return found
}

function valueOf(rest) {
  const quoted = /^(["'])(.*?)\1\s*(#.*)?$/.exec(rest)
  if (quoted) return quoted[2]
  return /^["']/.test(rest) ? undefined : rest.replace(/(^|\s+)#.*$/, '').trimEnd()
}
