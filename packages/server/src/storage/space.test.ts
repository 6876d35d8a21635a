import { expect, test } from 'vitest'
import { createSpace } from './space.ts'
import type { Room } from './space.ts'

const mib = 1024 * 1024

function spaceOf({ freeBytes = 100 * mib, room = { state: 'fine', reserveBytes: 20 * mib } as Room } = {}) {
  const disk = { freeBytes, room }
  const space = createSpace({ folder: '/', room: () => disk.room, freeBytes: () => Promise.resolve(disk.freeBytes) })
  return { disk, space }
}

const full = { code: 'disk_full' }

async function read(source: AsyncIterable<Uint8Array>): Promise<number> {
  let bytes = 0
  for await (const chunk of source) bytes += chunk.byteLength
  return bytes
}

test('what is promised must leave the reserve, together with what others were promised', async () => {
  const { space } = spaceOf()
  await expect(space.promise(81 * mib, () => Promise.resolve())).rejects.toMatchObject(full)
  await space.promise(50 * mib, async () => {
    await expect(space.promise(31 * mib, () => Promise.resolve())).rejects.toMatchObject(full)
    await space.promise(30 * mib, () => Promise.resolve())
  })
  expect(await space.promise(80 * mib, () => Promise.resolve('there'))).toBe('there')
})

test('a stream ends with an error when the disk comes to its reserve, by whoever writes', async () => {
  const { space, disk } = spaceOf()
  async function* endless() {
    for (;;) {
      disk.freeBytes -= mib
      yield new Uint8Array(mib)
    }
  }
  await expect(read(space.guarded(endless()))).rejects.toMatchObject(full)
  expect(disk.freeBytes).toBeGreaterThanOrEqual(20 * mib)
  await expect(read(space.guarded(endless()))).rejects.toMatchObject(full)
})

test.each(['low', 'read_only'] as const)(
  'of a disk that is %s nothing is taken in, whatever is free',
  async (state) => {
    const { space } = spaceOf({ room: { state } })
    await expect(space.promise(0, () => Promise.resolve())).rejects.toMatchObject(full)
    await expect(read(space.guarded((async function* () {})()))).rejects.toMatchObject(full)
  },
)

test('only so many are under way, and one that failed makes room', async () => {
  const { space } = spaceOf()
  const ends: (() => void)[] = []
  const work = () => new Promise<void>((_, fail) => ends.push(() => fail(new Error('cut'))))
  const running = Array.from({ length: 8 }, () => space.oneOfFew(work))
  await expect(space.oneOfFew(work)).rejects.toMatchObject({ code: 'too_many_requests' })
  for (const end of ends) end()
  await Promise.allSettled(running)
  expect(await space.oneOfFew(() => Promise.resolve('in'))).toBe('in')
})
