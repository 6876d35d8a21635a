import { describe, expect, test } from 'vitest'
import type { TemplateStatus } from '../drivers/driver.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createApi } from '../kernel/http/api.ts'
import { answerError } from '../kernel/http/errors.ts'
import { silentLogger } from '../kernel/log.ts'
import { templatesFeature } from './routes.ts'
import { createTemplates } from './service.ts'

interface Builder {
  /** What a build leaves behind. */
  becomes?: TemplateStatus['state']
  fails?: DeltaError
}

function startTemplates({ becomes = 'ready', fails }: Builder = {}) {
  const known = new Map<string, TemplateStatus>([
    ['host', { name: 'host', state: 'ready', detail: 'python3 node; no git' }],
    ['debian', { name: 'debian', state: 'missing', detail: '' }],
  ])
  const builds: string[] = []
  let finish: (() => void) | undefined
  const driver = {
    templates: () => Promise.resolve([...known.values()]),
    buildTemplate: (name: string) => {
      builds.push(name)
      return new Promise<void>((resolve, reject) => {
        finish = () => {
          if (fails) return reject(fails)
          known.set(name, { name, state: becomes, detail: 'no network' })
          resolve()
        }
      })
    },
  }
  const api = createApi()
  templatesFeature({ templates: createTemplates({ driver, log: silentLogger }) }).routes!(api)
  api.onError((error, c) => answerError(error, c as never, silentLogger))
  const call = async (method: string, path: string) => {
    const answer = await api.request(path, { method })
    return { status: answer.status, body: (await answer.json()) as Record<string, never> }
  }
  return { call, builds, finish: () => finish!() }
}

const settle = () => new Promise((resolve) => setImmediate(resolve))

describe('templates', () => {
  test('are listed with their state', async () => {
    const { call } = startTemplates()
    const { status, body } = await call('GET', '/v1/templates')
    expect(status).toBe(200)
    expect(body).toEqual({
      data: [
        { name: 'host', state: 'ready', detail: 'python3 node; no git' },
        { name: 'debian', state: 'missing', detail: '' },
      ],
      nextCursor: null,
    })
  })

  test('a ready one is not built again', async () => {
    const { call, builds } = startTemplates()
    expect(await call('POST', '/v1/templates/host/build')).toMatchObject({ status: 200, body: { state: 'ready' } })
    expect(builds).toEqual([])
  })

  test('everybody who asks while it is built waits for the one build', async () => {
    const { call, builds, finish } = startTemplates()
    const answers = Promise.all([
      call('POST', '/v1/templates/debian/build'),
      call('POST', '/v1/templates/debian/build'),
    ])
    await settle()
    await settle()
    finish()
    for (const answer of await answers)
      expect(answer).toMatchObject({ status: 200, body: { name: 'debian', state: 'ready' } })
    expect(builds).toEqual(['debian'])
  })

  test('a failed build can be tried again, and says why it failed', async () => {
    const fails = new DeltaError('template_build_failed', 'Template debian could not be built', {
      cause: 'no route to mirror',
    })
    const { call, builds, finish } = startTemplates({ fails })
    for (let i = 0; i < 2; i++) {
      const answer = call('POST', '/v1/templates/debian/build')
      await settle()
      await settle()
      finish()
      expect(await answer).toMatchObject({
        status: 502,
        body: { error: { code: 'template_build_failed', cause: 'no route to mirror' } },
      })
    }
    expect(builds).toHaveLength(2)
  })

  test('a build that ends without a ready template is no success', async () => {
    const { call, finish } = startTemplates({ becomes: 'failed' })
    const answer = call('POST', '/v1/templates/debian/build')
    await settle()
    await settle()
    finish()
    expect(await answer).toMatchObject({
      status: 502,
      body: { error: { code: 'template_build_failed', cause: 'no network' } },
    })
  })

  test('an unknown one is not found, an impossible name is invalid', async () => {
    const { call } = startTemplates()
    expect(await call('POST', '/v1/templates/nothing/build')).toMatchObject({
      status: 404,
      body: { error: { code: 'template_not_found' } },
    })
    expect(await call('POST', '/v1/templates/..%2Fetc/build')).toMatchObject({
      status: 400,
      body: { error: { code: 'invalid_request' } },
    })
  })
})
