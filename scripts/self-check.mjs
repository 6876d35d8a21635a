// Waits until the platform answers, then makes one real sandbox and prints what a person needs: the address, the account, the key, the proof.
// Usage: node scripts/self-check.mjs <pid of the platform> first|again
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

const [platformPid, occasion] = process.argv.slice(2)
const port = process.env.PORT ?? '8000'
const url = `http://127.0.0.1:${port}`
const keyFile = resolve(process.env.DELTA_DATA_DIR ?? 'data', 'api-key')
const waitMs = 30_000

await main()

async function main() {
  if (!(await healthy())) return
  const key = readFileSync(keyFile, 'utf8').trim()
  line('DELTA is running', url)
  if (occasion === 'first') {
    line('First account', 'acc_default')
    line('API key', `${key}   (shown this once; kept in ${keyFile}, mode 0600)`)
  } else {
    line('API key', `in ${keyFile}`)
  }
  try {
    await check(key)
  } catch (error) {
    line('Self-check', `FAILED: ${error.message}`)
    line('', 'See what this machine lacks: npm run delta -- doctor')
  }
  line('Stop', 'Ctrl-C (ends every sandbox) or SIGTERM (leaves them for the next start)')
}

async function healthy() {
  const deadline = performance.now() + waitMs
  while (performance.now() < deadline) {
    if (!alive(Number(platformPid))) return false
    const answer = await fetch(`${url}/health`, { signal: AbortSignal.timeout(2_000) }).catch(() => undefined)
    if (answer?.ok) return true
    await new Promise((done) => setTimeout(done, 50))
  }
  line('Self-check', `${url}/health did not answer within ${waitMs / 1000} s; the log above says why.`)
  return false
}

async function check(key) {
  const call = async (method, path, body) => {
    const answer = await fetch(`${url}${path}`, {
      method,
      headers: { authorization: `Bearer ${key}`, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(60_000),
    })
    if (answer.status === 204) return undefined
    const value = await answer.json()
    if (!answer.ok) throw new Error(`${value.error.message} ${value.error.remediation}`)
    return value
  }
  const clock = stopwatch()
  const sandbox = await call('POST', '/v1/sandboxes', { timeoutMs: 60_000, metadata: { purpose: 'self-check' } })
  const createMs = clock()
  let exec = await call('POST', `/v1/sandboxes/${sandbox.id}/execs`, {
    cmd: `if command -v python3 >/dev/null; then echo python3; python3 -c 'print(6*7)'; else echo shell; echo $((6*7)); fi`,
  })
  const [language, result] = exec.stdout.trim().split('\n')
  const execMs = clock()
  await call('DELETE', `/v1/sandboxes/${sandbox.id}`)
  const endMs = clock()
  if (result !== '42') throw new Error(`6*7 in the sandbox gave ${JSON.stringify(exec)}`)
  const program = language === 'python3' ? `python3 -c 'print(6*7)'` : 'echo $((6*7))'
  line(
    'Self-check',
    `${program} → ${result} in a new sandbox: create ${createMs} ms, run ${execMs} ms, end ${endMs} ms`,
  )
  if (sandbox.timings?.length)
    line('  create', sandbox.timings.map(({ phase, micros }) => `${phase} ${(micros / 1000).toFixed(1)} ms`).join(', '))
  line(
    '  isolation',
    Object.entries(sandbox.isolation ?? {})
      .map(([name, value]) => `${name} ${value}`)
      .join(', '),
  )
}

function stopwatch() {
  let last = performance.now()
  return () => {
    const now = performance.now()
    const passed = (now - last).toFixed(1)
    last = now
    return passed
  }
}

function alive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function line(name, text) {
  process.stdout.write(`${name.padEnd(18)} ${text}\n`)
}
