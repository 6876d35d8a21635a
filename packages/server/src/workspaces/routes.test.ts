import { beforeEach, describe, expect, test } from 'vitest'
import { errorTable } from '../kernel/errors.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { limits } from '../kernel/limits.ts'
import { type Answer, apiMigrations, type CallOptions, startApi } from './testing-api.ts'

type Started = Awaited<ReturnType<typeof startApi>>
type Json = Record<string, unknown>

const written = ['id', 'name', 'comment', 'tags', 'metadata', 'diskMb', 'retention', 'autoSnapshot', 'headSnapshotId']

testDatabases('bad input to workspaces, snapshots, volumes and templates', (open) => {
  let api: Started
  /** What there is: of each a thing of Anna's, and a thing of Bert's that Anna must not learn of. */
  let own: Owned
  let foreign: Owned

  beforeEach(async () => {
    api = await startApi(await open(apiMigrations))
    ;[own, foreign] = await Promise.all([provide('anna'), provide('bert')])
  })

  interface Owned {
    workspace: string
    name: string
    snapshot: string
    volume: string
    template: string
  }

  async function provide(as: 'anna' | 'bert'): Promise<Owned> {
    const make = async (path: string, body: Json) => {
      const answer = await api.call('POST', path, { body, as })
      expect([201, 202], JSON.stringify(answer.body)).toContain(answer.status)
      return answer.body['id'] as string
    }
    const workspace = await make('/v1/workspaces', { name: `of-${as}` })
    const snapshot = await make(`/v1/workspaces/${workspace}/snapshots`, { name: `kept-${as}` })
    const volume = await make('/v1/volumes', { name: `of-${as}` })
    const template = await make('/v1/templates', {
      name: `tools-${as}`,
      from: { dockerfile: 'FROM host\nRUN write /a b' },
    })
    await expect
      .poll(async () => (await api.call('GET', `/v1/templates/${template}`, { as })).body['state'])
      .toBe('ready')
    return { workspace, name: `of-${as}`, snapshot, volume, template }
  }

  /** All that could have been written, without what goes on in the background by itself. */
  async function everything(): Promise<unknown> {
    const lists = ['/v1/workspaces', '/v1/volumes', '/v1/templates', `/v1/workspaces/${own.workspace}/snapshots`]
    const seen = await Promise.all([
      ...lists.map((path) => api.call('GET', path)),
      ...lists.slice(0, 3).map((path) => api.call('GET', path, { as: 'bert' })),
    ])
    return seen.map(({ body }) => (body['data'] as Json[]).map((one) => written.map((field) => one[field])))
  }

  function expectError({ status, body, requestId }: Answer, code: keyof typeof errorTable, what: string): void {
    const error = body['error'] as Json
    expect([status, error?.['code']], `${what}: ${JSON.stringify(body)}`).toEqual([errorTable[code].status, code])
    expect(error['remediation']).toBe(errorTable[code].remediation)
    expect(error['message']).toMatch(/\w/)
    expect(error['requestId']).toBe(requestId)
    expect(JSON.stringify(body)).not.toMatch(/node_modules|\.ts:\d|SQLITE|constraint failed/)
  }

  type Refused = [method: string, path: string, code: keyof typeof errorTable, options?: CallOptions]

  async function expectRefused(calls: readonly Refused[]): Promise<void> {
    const before = await everything()
    for (const [method, path, code, options] of calls) {
      const what = `${method} ${path.slice(0, 120)} ${JSON.stringify(options ?? {}).slice(0, 160)}`
      expectError(await api.call(method, path, options), code, what)
    }
    expect(await everything()).toEqual(before)
  }

  /** Every route with an id in its path, with a body it would take. */
  const routesOf = (kind: 'workspace' | 'snapshot' | 'volume' | 'template', id: string): [string, string, Json?][] =>
    ({
      workspace: [
        ['GET', `/v1/workspaces/${id}`],
        ['PATCH', `/v1/workspaces/${id}`, { name: 'taken-over' }],
        ['DELETE', `/v1/workspaces/${id}`],
        ['POST', `/v1/workspaces/${id}/snapshots`, {}],
        ['GET', `/v1/workspaces/${id}/snapshots`],
        ['POST', `/v1/workspaces/${id}/rollback`, { snapshotId: own.snapshot }],
        ['POST', `/v1/workspaces/${id}/forks`, {}],
      ],
      snapshot: [
        ['GET', `/v1/snapshots/${id}`],
        ['PATCH', `/v1/snapshots/${id}`, { comment: 'mine' }],
        ['DELETE', `/v1/snapshots/${id}`],
        ['POST', `/v1/snapshots/${id}/forks`, {}],
        ['GET', `/v1/snapshots/${id}/changes`],
        ['GET', `/v1/snapshots/${id}/diff/${own.snapshot}`],
        ['GET', `/v1/snapshots/${own.snapshot}/diff/${id}`],
        ['GET', `/v1/snapshots/${id}/files?path=/a`],
        ['GET', `/v1/snapshots/${id}/image`],
      ],
      volume: [
        ['GET', `/v1/volumes/${id}`],
        ['DELETE', `/v1/volumes/${id}`],
      ],
      template: [
        ['GET', `/v1/templates/${id}`],
        ['DELETE', `/v1/templates/${id}`],
        ['POST', `/v1/templates/${id}/cancel`],
        ['GET', `/v1/templates/${id}/log`],
      ],
    })[kind] as [string, string, Json?][]

  const missing = {
    workspace: 'workspace_not_found',
    snapshot: 'snapshot_not_found',
    volume: 'volume_not_found',
    template: 'template_not_found',
  } as const
  const unused = {
    workspace: 'wsp_00000000000000000000',
    snapshot: 'snp_00000000000000000000',
    volume: 'vol_00000000000000000000',
    template: 'tpl_00000000000000000000',
  }

  test.each(['workspace', 'snapshot', 'volume', 'template'] as const)(
    'the %s of another account answers as one that is not there',
    async (kind) => {
      const before = await everything()
      const words = ({ status, body }: Answer, id: string) =>
        JSON.stringify([status, body])
          .replaceAll(id, 'ID')
          .replace(/req_\w+/, '')
      const foreignNames = kind === 'snapshot' ? [] : kind === 'template' ? ['tools-bert', 'tools-bert@1'] : ['of-bert']
      for (const id of [foreign[kind], ...foreignNames]) {
        const [asked, never] = [routesOf(kind, id), routesOf(kind, unused[kind])]
        for (const [at, [method, path, body]] of asked.entries()) {
          const found = await api.call(method, path, { body })
          expectError(found, missing[kind], `${method} ${path}`)
          const other = await api.call(method, never[at]![1], { body })
          expect(words(found, id)).toBe(words(other, unused[kind]))
        }
      }
      expect(await everything()).toEqual(before)
    },
  )

  test.each(['workspace', 'snapshot', 'volume', 'template'] as const)(
    'what is no id of a %s is refused by every route',
    async (kind) => {
      const ids = [
        'nonsense',
        'a%00b',
        '%FF',
        '%2e%2e%2fetc',
        'x'.repeat(5_000),
        "'; drop table--",
        '💥',
        '%0a',
        own[kind].toUpperCase(),
      ]
      const before = await everything()
      for (const id of ids) {
        for (const [method, path, body] of routesOf(kind, id)) {
          const answer = await api.call(method, path, { body })
          const { code } = (answer.body['error'] ?? {}) as { code?: keyof typeof errorTable }
          expect([missing[kind], 'invalid_request', 'not_found'], `${method} ${path.slice(0, 80)}`).toContain(code)
          expectError(answer, code!, path.slice(0, 80))
        }
      }
      expect(await everything()).toEqual(before)
    },
  )

  const badNames = [
    '',
    '-a',
    'a b',
    'A',
    'ü',
    'a/b',
    '..',
    'a\u0000b',
    'a\nb',
    'a'.repeat(65),
    'wsp_x',
    'snp_x',
    5,
    null,
    [],
    {},
  ]

  describe('workspaces', () => {
    test('bodies that are none', async () => {
      const bodies: [string | Uint8Array, keyof typeof errorTable][] = [
        ['{', 'malformed_json'],
        ['{"name": NaN}', 'malformed_json'],
        [new Uint8Array([0x7b, 0xff, 0x7d]), 'malformed_json'],
        ['[]', 'invalid_request'],
        ['null', 'invalid_request'],
        ['"text"', 'invalid_request'],
        [`{"metadata":${'['.repeat(50_000)}${']'.repeat(50_000)}}`, 'invalid_request'],
        [' '.repeat(limits.jsonBodyBytes + 1), 'body_too_large'],
      ]
      const posts = [
        'POST /v1/workspaces',
        `PATCH /v1/workspaces/${own.workspace}`,
        `POST /v1/workspaces/${own.workspace}/snapshots`,
        `POST /v1/workspaces/${own.workspace}/rollback`,
        `POST /v1/workspaces/${own.workspace}/forks`,
        `POST /v1/snapshots/${own.snapshot}/forks`,
        `PATCH /v1/snapshots/${own.snapshot}`,
        'POST /v1/volumes',
        'POST /v1/templates',
        'PUT /v1/templates/tools-anna/tags/stable',
      ]
      await expectRefused(
        posts.flatMap((post) => {
          const [method, path] = post.split(' ') as [string, string]
          return bodies.map(([body, code]): Refused => [method, path, code, { body }])
        }),
      )
    })

    const badSettings: Json[] = [
      { unknown: 1 },
      ...badNames.map((name) => ({ name })),
      ...[0, -1, 31, 1.5, 1e300, 2 ** 53, '64', null, 1_048_577].map((diskMb) => ({ diskMb })),
      ...[
        {},
        { keepLast: 0 },
        { keepLast: -5 },
        { keepLast: 1_001 },
        { keepLast: '5' },
        { keepLast: 5, more: 1 },
        5,
        null,
      ].map((retention) => ({ retention })),
      ...['yes', 1, null].map((autoSnapshot) => ({ autoSnapshot })),
      ...[
        [],
        'text',
        { a: 1 },
        { a: null },
        { '': 'x' },
        { ['k'.repeat(129)]: 'v' },
        { k: 'v'.repeat(1_025) },
        { k: 'a\u0000b' },
        { 'k\u0000': 'v' },
        Object.fromEntries(Array.from({ length: 65 }, (_, at) => [`k${at}`, 'v'])),
      ].map((metadata) => ({ metadata })),
    ]

    test('settings that cannot be, when it is made and when it is changed', async () => {
      const templates = ['../etc', 'a b', '', 'host:', 'host@0', 'a'.repeat(65), 5, null].map((template) => ({
        template,
      }))
      await expectRefused([
        ...[...badSettings, ...templates].map((body): Refused => [
          'POST',
          '/v1/workspaces',
          'invalid_request',
          { body },
        ]),
        // Its template is never another one.
        ...[...badSettings, { template: 'host' }].map((body): Refused => [
          'PATCH',
          `/v1/workspaces/${own.workspace}`,
          'invalid_request',
          { body },
        ]),
        ['POST', '/v1/workspaces', 'workspace_name_taken', { body: { name: own.name } }],
      ])
    })

    test('snapshots, rollbacks and forks that cannot be', async () => {
      const base = `/v1/workspaces/${own.workspace}`
      const comments = ['x'.repeat(1_001), 'a\u0000b', 5, null].map((comment) => ({ comment }))
      const names = badNames.filter((name) => name !== null).map((name) => ({ name }))
      const forks: Json[] = [
        ...[0, -1, 101, 1.5, '2', null].map((count) => ({ count })),
        ...[[], ['a', 'a'], ['A'], [5], 'a', null, Array.from({ length: 101 }, (_, at) => `f${at}`)].map((of) => ({
          names: of,
        })),
        { count: 2, names: ['one'] },
        { unknown: true },
      ]
      await expectRefused([
        ...[...comments, ...names, { name: null }, { unknown: 1 }].map((body): Refused => [
          'POST',
          `${base}/snapshots`,
          'invalid_request',
          { body },
        ]),
        ...[...comments, ...names, { reason: 'stop' }].map((body): Refused => [
          'PATCH',
          `/v1/snapshots/${own.snapshot}`,
          'invalid_request',
          { body },
        ]),
        ['POST', `${base}/snapshots`, 'snapshot_name_taken', { body: { name: 'kept-anna' } }],
        ...[
          {},
          { snapshotId: '' },
          { snapshotId: 5 },
          { snapshotId: 'x'.repeat(65) },
          { snapshotId: own.snapshot, force: true },
        ].map((body): Refused => ['POST', `${base}/rollback`, 'invalid_request', { body }]),
        ['POST', `${base}/rollback`, 'snapshot_not_found', { body: { snapshotId: unused.snapshot } }],
        ['POST', `${base}/rollback`, 'snapshot_not_found', { body: { snapshotId: foreign.snapshot } }],
        ['POST', `${base}/rollback`, 'snapshot_not_found', { body: { snapshotId: 'a\u0000b' } }],
        ...forks.flatMap((body): Refused[] => [
          ['POST', `${base}/forks`, 'invalid_request', { body }],
          ['POST', `/v1/snapshots/${own.snapshot}/forks`, 'invalid_request', { body }],
        ]),
        [
          'POST',
          `/v1/snapshots/${own.snapshot}/forks`,
          'workspace_name_taken',
          { body: { names: ['new-one', own.name] } },
        ],
        ['DELETE', `/v1/snapshots/${own.snapshot}`, 'snapshot_in_use'],
      ])
    })

    test('pages and cursors that lie', async () => {
      const cursor = (text: string) => `cursor=${Buffer.from(text).toString('base64url')}`
      const wrong = [
        'limit=0',
        'limit=-1',
        'limit=501',
        'limit=1e2',
        'limit=0x10',
        'limit=',
        'limit=9999999999999999',
        'limit=1&limit=2',
        'cursor=garbage',
        'cursor=%FF',
        'cursor=',
        'cursor=a&cursor=b',
        cursor('1.sbx_aaaa'),
        cursor("1.wsp_a' or 1=1"),
        cursor('-1.wsp_aaaa'),
        cursor('99999999999999999999.wsp_aaaa'),
        `cursor=${'a'.repeat(8_193)}`,
      ]
      await expectRefused(
        ['/v1/workspaces', `/v1/workspaces/${own.workspace}/snapshots`].flatMap((path) =>
          wrong.map((query): Refused => ['GET', `${path}?${query}`, 'invalid_request']),
        ),
      )
      await expectRefused(
        [`/v1/snapshots/${own.snapshot}/changes`, `/v1/snapshots/${own.snapshot}/diff/${own.snapshot}`].flatMap(
          (path) =>
            ['limit=0', 'limit=10001', 'limit=x', `cursor=${'a'.repeat(8_193)}`].map((query): Refused => [
              'GET',
              `${path}?${query}`,
              'invalid_request',
            ]),
        ),
      )
      // One that points to what is not there is only a place in the list.
      const beyond = await api.call('GET', `/v1/workspaces?${cursor('1.wsp_aaaa')}`)
      expect([beyond.status, beyond.body]).toEqual([200, { data: [], nextCursor: null }])
      // And one of another account shows nothing of it.
      await api.call('POST', '/v1/workspaces', { body: {}, as: 'bert' })
      const { body } = await api.call('GET', '/v1/workspaces?limit=1', { as: 'bert' })
      const stolen = await api.call('GET', `/v1/workspaces?cursor=${String(body['nextCursor'])}`)
      expect(JSON.stringify(stolen.body)).not.toContain('of-bert')
    })

    test('files and images of snapshots that cannot be', async () => {
      const path = `/v1/snapshots/${own.snapshot}`
      await expectRefused([
        ['GET', `${path}/files`, 'invalid_request'],
        ['GET', `${path}/files?path=`, 'invalid_request'],
        ['GET', `${path}/files?path=${'a'.repeat(4_097)}`, 'invalid_request'],
        ['GET', `${path}/files?path=/none`, 'file_not_found'],
        ['GET', `${path}/files?path=relative`, 'invalid_request'],
        ['GET', `${path}/files?path=/a/../b`, 'invalid_request'],
        ['GET', `${path}/files?path=/a%00b`, 'invalid_request'],
        ['GET', `${path}/image?layers=gzip`, 'invalid_request'],
        ['GET', `${path}/image?layers=`, 'invalid_request'],
      ])
    })

    test('an import of what is no image', async () => {
      const tar = { 'content-type': 'application/x-tar' }
      await expectRefused([
        ['POST', '/v1/workspaces/import', 'image_invalid', { headers: tar }],
        ['POST', '/v1/workspaces/import', 'image_invalid', { body: 'no tar at all', headers: tar }],
        ['POST', '/v1/workspaces/import', 'image_invalid', { body: new Uint8Array(10_240), headers: tar }],
        ['POST', '/v1/workspaces/import', 'image_invalid', { body: { name: 'x' } }],
        ['POST', '/v1/workspaces/import?name=A%20B', 'invalid_request', { body: 'x', headers: tar }],
        ['POST', `/v1/workspaces/import?name=${own.name}`, 'workspace_name_taken', { body: 'x', headers: tar }],
      ])
    })
  })

  test('volumes that cannot be', async () => {
    const names = [
      '',
      '-a',
      'a-',
      'a b',
      'A',
      'ü',
      'a.b',
      'a/b',
      '..',
      'a\u0000b',
      'a\nb',
      'a'.repeat(64),
      5,
      null,
      [],
      {},
    ]
    await expectRefused([
      ...names.map((name): Refused => ['POST', '/v1/volumes', 'invalid_request', { body: { name } }]),
      ...[0, -1, 31, 1.5, 1e300, 1_048_577, '64', null].map((diskMb): Refused => [
        'POST',
        '/v1/volumes',
        'invalid_request',
        { body: { name: 'new', diskMb } },
      ]),
      ['POST', '/v1/volumes', 'invalid_request', { body: {} }],
      ['POST', '/v1/volumes', 'invalid_request', { body: { name: 'new', unknown: 1 } }],
      ['POST', '/v1/volumes', 'volume_exists', { body: { name: 'of-anna' } }],
    ])
    await expectRefused([
      ['PATCH', `/v1/volumes/${own.volume}`, 'method_not_allowed', { body: { name: 'x' } }],
      ['PUT', `/v1/workspaces/${own.workspace}`, 'method_not_allowed', { body: {} }],
      ['DELETE', '/v1/templates', 'method_not_allowed'],
    ])
  })

  test('templates that cannot be', async () => {
    const image = { image: 'registry.example/a:b' }
    const of = (body: Json): Refused => ['POST', '/v1/templates', 'invalid_request', { body }]
    const names = [
      '',
      '-a',
      'a b',
      'A',
      'ü',
      'a/b',
      'a:b',
      'a\u0000b',
      'a'.repeat(65),
      'host',
      'scratch',
      'tpl_x',
      5,
      null,
    ]
    const tar = { 'content-type': 'application/x-tar' }
    const settings: Json[] = [
      { cpu: 0 },
      { cpu: -1 },
      { cpu: 65 },
      { memoryMb: 1 },
      { memoryMb: 1.5 },
      { stepTimeoutMs: 1 },
      { timeoutMs: 1e300 },
      { args: { 'a b': 'x' } },
      { args: { A: 5 } },
      { args: [] },
      { noCache: 'yes' },
      { network: { egress: 'some' } },
      { target: '' },
      { auth: { username: 'a' } },
      { unknown: 1 },
    ]
    await expectRefused([
      ...names.map((name) => of({ name, from: image })),
      of({ name: 'new' }),
      of({ name: 'new', from: {} }),
      of({ name: 'new', from: { ...image, snapshot: own.snapshot } }),
      of({ name: 'new', from: { image: '' } }),
      of({ name: 'new', from: { image: 'x'.repeat(513) } }),
      of({ name: 'new', from: { snapshot: 'snp_' } }),
      of({ name: 'new', from: { snapshot: '../x' } }),
      of({ name: 'new', from: { dockerfile: '' } }),
      of({ name: 'new', from: image, tags: ['a b'] }),
      of({ name: 'new', from: image, tags: Array.from({ length: 17 }, (_, at) => `t${at}`) }),
      of({ name: 'new', from: image, tags: 'one' }),
      of({ name: 'new', from: image, unknown: 1 }),
      ...settings.map((more) => of({ name: 'new', from: { dockerfile: 'FROM host', ...more } })),
      ['POST', '/v1/templates', 'dockerfile_invalid', { body: { name: 'new', from: { dockerfile: 'RUN x' } } }],
      ['POST', '/v1/templates', 'dockerfile_invalid', { body: { name: 'new', from: { dockerfile: 'NONSENSE' } } }],
      ['POST', '/v1/templates', 'snapshot_not_found', { body: { name: 'new', from: { snapshot: unused.snapshot } } }],
      ['POST', '/v1/templates/import', 'invalid_request', { body: 'x', headers: tar }],
      ['POST', '/v1/templates/import?name=A', 'invalid_request', { body: 'x', headers: tar }],
      ['POST', '/v1/templates/import?name=new&tag=a%20b', 'invalid_request', { body: 'x', headers: tar }],
      [
        'POST',
        '/v1/templates/builds?name=new',
        'archive_invalid',
        { body: 'no tar at all'.repeat(1_000), headers: tar },
      ],
      ['POST', '/v1/templates/builds?name=new', 'dockerfile_invalid', { body: '', headers: tar }],
      ['POST', '/v1/templates/builds?name=new&options=%7B', 'malformed_json', { body: 'x', headers: tar }],
      ['POST', '/v1/templates/builds?name=new&options=[]', 'invalid_request', { body: 'x', headers: tar }],
      ['POST', '/v1/templates/builds?name=new&dockerfile=', 'invalid_request', { body: 'x', headers: tar }],
      ['POST', '/v1/templates/builds?name=new&options={"cpu":0}', 'invalid_request', { body: 'x', headers: tar }],
      ['POST', '/v1/templates/A/build', 'invalid_request'],
      ['POST', '/v1/templates/no-such/build', 'template_not_found'],
      ['GET', '/v1/templates/A/versions', 'invalid_request'],
      ['GET', '/v1/templates/tools-bert/versions', 'template_not_found'],
      ['GET', `/v1/templates/${own.template}/log?from=-1`, 'invalid_request'],
      ['GET', `/v1/templates/${own.template}/log?from=1e3`, 'invalid_request'],
      ...[
        {},
        { version: 0 },
        { version: -1 },
        { version: 1.5 },
        { version: '1' },
        { version: 1e300 },
        { version: 1, x: 1 },
      ].map((body): Refused => ['PUT', '/v1/templates/tools-anna/tags/stable', 'invalid_request', { body }]),
      ['PUT', '/v1/templates/tools-anna/tags/stable', 'template_not_found', { body: { version: 9 } }],
      ['PUT', '/v1/templates/tools-bert/tags/stable', 'template_not_found', { body: { version: 1 } }],
      ['PUT', '/v1/templates/tools-anna/tags/a%20b', 'invalid_request', { body: { version: 1 } }],
      ['DELETE', '/v1/templates/tools-anna/tags/none', 'template_not_found'],
      ['DELETE', '/v1/templates/tools-bert/tags/latest', 'template_not_found'],
    ])
  })

  test('a key for repeating is one thing made once, and no other thing', async () => {
    const keyed = (body: Json, key: string): CallOptions => ({ body, headers: { 'idempotency-key': key } })
    const posts: [string, Json, Json][] = [
      ['/v1/workspaces', { name: 'once' }, { name: 'twice' }],
      [`/v1/workspaces/${own.workspace}/snapshots`, { comment: 'once' }, { comment: 'twice' }],
      [`/v1/workspaces/${own.workspace}/forks`, { names: ['fork-once'] }, { names: ['fork-twice'] }],
      [`/v1/snapshots/${own.snapshot}/forks`, { names: ['snap-once'] }, { names: ['snap-twice'] }],
      ['/v1/volumes', { name: 'once' }, { name: 'twice' }],
      [
        '/v1/templates',
        { name: 'once', from: { dockerfile: 'FROM host\nRUN write /a b' } },
        { name: 'twice', from: { dockerfile: 'FROM host\nRUN write /a b' } },
      ],
    ]
    for (const [at, [path, body, other]] of posts.entries()) {
      const key = `key-${at}`
      const idsOf = (answer: Answer) => [
        answer.body['id'],
        (answer.body['data'] as Json[] | undefined)?.map(({ id }) => id),
      ]
      const first = await api.call('POST', path, keyed(body, key))
      expect([201, 202], `${path} ${JSON.stringify(first.body)}`).toContain(first.status)
      const again = await api.call('POST', path, keyed(body, key))
      expect([again.status, idsOf(again)], path).toEqual([first.status, idsOf(first)])
      // What is being made changes by itself.
      const states = async () =>
        ((await api.call('GET', '/v1/templates')).body['data'] as Json[]).map(({ state }) => state)
      await expect.poll(states, { timeout: 10_000 }).not.toContain('building')
      await expectRefused([
        ['POST', path, 'idempotency_conflict', keyed(other, key)],
        ['POST', path, 'invalid_request', keyed(other, '')],
        ['POST', path, 'invalid_request', keyed(other, 'k'.repeat(256))],
      ])
    }
    // Keys are each account's own.
    const bert = await api.call('POST', '/v1/workspaces', { ...keyed({ name: 'twice' }, 'key-0'), as: 'bert' })
    expect(bert.status).toBe(201)
  })
})
