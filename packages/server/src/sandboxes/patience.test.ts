import { describe, expect, test } from 'vitest'
import { moving } from './patience.ts'

async function* parts(...each: (string | Promise<string>)[]): AsyncGenerator<string> {
  for (const part of each) yield part
}

describe('a body of which every part has its time', () => {
  test('is passed on whole', async () => {
    const got: string[] = []
    for await (const part of moving(parts('a', 'b'), 1_000)) got.push(part)
    expect(got).toEqual(['a', 'b'])
  })

  test('fails when a part does not come', async () => {
    const body = moving(parts('a', new Promise<string>(() => {})), 20)
    expect(await body.next()).toEqual({ done: false, value: 'a' })
    await expect(body.next()).rejects.toMatchObject({ code: 'guest_timed_out' })
  })

  test('is ended when its reader leaves', async () => {
    let ended = false
    async function* endless() {
      try {
        for (;;) yield 'x'
      } finally {
        ended = true
      }
    }
    for await (const part of moving(endless(), 1_000)) if (part === 'x') break
    expect(ended).toBe(true)
  })
})
