import type { LookupAddress } from 'node:dns'
import { expect, test } from 'vitest'
import { createNames, NameError } from './names.ts'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const found = (...addresses: string[]): LookupAddress[] => addresses.map((address) => ({ address, family: 4 }))

function start({ hosts = new Map<string, string[]>() } = {}) {
  const asked: { host: string; answer: (found: LookupAddress[]) => void; fail: (error: Error) => void }[] = []
  const time = { ms: 0 }
  const names = createNames({
    lookup: (host) =>
      new Promise((answer, fail) => {
        asked.push({ host, answer, fail })
      }),
    hosts,
    monotonic: () => time.ms,
  })
  return { names, asked, time }
}

test('a literal address and a name the operator stated are not asked for', async () => {
  const { names, asked } = start({ hosts: new Map([['mirror.example', ['10.1.2.3', 'fd00::1']]]) })
  expect(await names.resolve('sbx_a', '203.0.113.7')).toEqual([{ address: '203.0.113.7', family: 4 }])
  expect(await names.resolve('sbx_a', 'mirror.example')).toEqual([
    { address: '10.1.2.3', family: 4 },
    { address: 'fd00::1', family: 6 },
  ])
  expect(asked).toEqual([])
})

test('an answer is shared for seconds, then asked for anew', async () => {
  const { names, asked, time } = start()
  const both = [names.resolve('sbx_a', 'a.example'), names.resolve('sbx_a', 'a.example')]
  await turn()
  expect(asked.length).toBe(1)
  asked[0]!.answer(found('1.1.1.1'))
  expect(await Promise.all(both)).toEqual([[{ address: '1.1.1.1', family: 4 }], [{ address: '1.1.1.1', family: 4 }]])
  await names.resolve('sbx_b', 'a.example')
  expect(asked.length).toBe(1)
  time.ms = 5_001
  void names.resolve('sbx_a', 'a.example')
  await turn()
  expect(asked.length).toBe(2)
})

test('failures say whether the name is unknown or could not be resolved, and are not kept', async () => {
  const { names, asked } = start()
  const fail = async (code: string) => {
    const outcome = names.resolve('sbx_a', 'a.example').catch((error: unknown) => error)
    await turn()
    asked.at(-1)!.fail(Object.assign(new Error(code), { code }))
    const error = await outcome
    expect(error).toBeInstanceOf(NameError)
    return (error as NameError).code
  }
  expect([await fail('ENOTFOUND'), await fail('EAI_AGAIN'), await fail('EBADNAME')]).toEqual([
    'not_found',
    'temporary',
    'temporary',
  ])
  const nothing = names.resolve('sbx_a', 'a.example').catch((error: unknown) => error)
  await turn()
  asked.at(-1)!.answer([])
  expect(await nothing).toMatchObject({ code: 'not_found' })
})

test('one sandbox with slow names delays no other, and may not queue without end', async () => {
  const { names, asked } = start()
  const flood = Array.from({ length: 258 }, (_, index) => names.resolve('sbx_a', `a${index}.example`))
  await turn()
  expect(asked.map(({ host }) => host)).toEqual(['a0.example', 'a1.example'])
  await expect(names.resolve('sbx_a', 'more.example')).rejects.toMatchObject({ code: 'busy' })
  const other = names.resolve('sbx_b', 'b.example')
  await turn()
  expect(asked.at(-1)!.host).toBe('b.example')
  asked.at(-1)!.answer(found('1.1.1.1'))
  await other
  for (let index = 0; index < 259; index++) {
    asked[index]!.answer(found('1.1.1.1'))
    await turn()
  }
  expect((await Promise.all(flood)).length).toBe(258)
  expect(asked.length).toBe(259)
})

test('those who wait take turns', async () => {
  const { names, asked } = start()
  for (const owner of ['a', 'b', 'c', 'd', 'e', 'f']) {
    for (const number of [1, 2]) void names.resolve(owner, `${number}.${owner}`)
  }
  void names.resolve('a', '3.a')
  await turn()
  expect(asked.length).toBe(8)
  for (let index = 0; index < 5; index++) {
    asked[index]!.answer(found('1.1.1.1'))
    await turn()
  }
  expect(new Set(asked.slice(8).map(({ host }) => host))).toEqual(new Set(['3.a', '1.e', '2.e', '1.f', '2.f']))
})
