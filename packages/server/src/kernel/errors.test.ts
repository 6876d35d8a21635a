import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { DeltaError, errorTable } from './errors.ts'
import type { ErrorCode } from './errors.ts'

const sourceFolder = resolve(import.meta.dirname, '..')
const docsFile = resolve(import.meta.dirname, '../../../../docs/errors.md')
const rows = Object.entries(errorTable) as [ErrorCode, { status: number; remediation: string }][]

function sources(): string {
  return readdirSync(sourceFolder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && file !== join('kernel', 'errors.ts'))
    .map((file) => readFileSync(join(sourceFolder, file), 'utf8'))
    .join('\n')
}

describe('the error table', () => {
  test.each(rows)('%s tells what to do next, in sentences', (_code, { remediation }) => {
    expect(remediation).toMatch(/^[A-Z][^]{38,}[.…]$/)
    expect(remediation).toMatch(
      /\b(send|check|try|use|wait|start|stop|correct|choose|create|read|remove|shorten|change|name|leave|look|ask|address|end|build|kill|repeat|restart|split|tell|save)\b/i,
    )
  })

  test.each(rows)('%s has a status of an error', (_code, { status }) => {
    expect(status).toBeGreaterThanOrEqual(400)
    expect(status).toBeLessThan(600)
  })

  test('every code is raised somewhere', () => {
    const text = sources()
    const unused = rows.map(([code]) => code).filter((code) => !text.includes(`'${code}'`))
    expect(unused).toEqual([])
  })

  test('docs/errors.md lists every code; vitest -u writes it anew', async () => {
    const lines = rows.map(
      ([code, { status, remediation }]) => `| \`${code}\` | ${status} | ${remediation.replaceAll('|', '\\|')} |`,
    )
    const text = [
      '<!-- Generated from packages/server/src/kernel/errors.ts by errors.test.ts (vitest -u). Do not edit. -->',
      '# Errors',
      '',
      'Every refusal and failure is `{ error: { code, message, cause?, remediation, requestId, context? } }`. Branch on `code`, never on `message`.',
      '',
      '| code | status | what to do |',
      '|---|---|---|',
      ...lines,
      '',
    ]
    await expect(text.join('\n')).toMatchFileSnapshot(docsFile)
  })
})

describe('DeltaError', () => {
  test('shows code, message, remediation, request id and context', () => {
    const error = new DeltaError('sandbox_not_found', 'There is no sandbox sbx_1', { context: { sandboxId: 'sbx_1' } })
    expect(error.status).toBe(404)
    expect(error.toBody('req_1')).toEqual({
      error: {
        code: 'sandbox_not_found',
        message: 'There is no sandbox sbx_1',
        remediation: errorTable.sandbox_not_found.remediation,
        requestId: 'req_1',
        context: { sandboxId: 'sbx_1' },
      },
    })
  })

  test('shows a cause that is a text or a DeltaError', () => {
    const inner = new DeltaError('driver_failed', 'mount refused')
    expect(new DeltaError('invalid_request', 'm', { cause: 'body.a: must be a number' }).toBody('r').error.cause).toBe(
      'body.a: must be a number',
    )
    expect(new DeltaError('sandbox_start_failed', 'm', { cause: inner }).toBody('r').error.cause).toBe('mount refused')
  })

  test('keeps any other cause for the log', () => {
    const secret = new Error('/srv/private: ENOENT')
    const error = new DeltaError('internal', 'm', { cause: secret })
    expect(error.cause).toBe(secret)
    expect(JSON.stringify(error.toBody('r'))).not.toContain('private')
  })
})
