import { describe, expect, test } from 'vitest'
import { bisect, type BisectOptions } from './bisect.ts'
import type { CommandResult } from './command-handle.ts'
import type { Snapshot } from './snapshots.ts'

/** A history of which the command fails from one snapshot on. */
function history(length: number, firstBad: number, { fails = false } = {}) {
  const tried: number[] = []
  const forks = { open: 0 }
  const snapshots = Array.from({ length }, (_, at) => ({
    id: `snp_${at}`,
    info: { parentId: at === 0 ? null : `snp_${at - 1}` },
    async fork() {
      forks.open += 1
      return [
        {
          update: async () => undefined,
          start: async () => ({
            commands: {
              async run() {
                tried.push(at)
                if (fails) throw new Error('the sandbox is gone')
                return { exitCode: at < firstBad ? 0 : 1 } satisfies Partial<CommandResult>
              },
            },
            [Symbol.asyncDispose]: async () => undefined,
          }),
          remove: async () => void (forks.open -= 1),
        },
      ]
    },
  }))
  const find = async (id: string): Promise<Snapshot> => {
    const found: unknown = snapshots.find((one) => one.id === id)
    return found as Snapshot
  }
  const search = (options: Partial<BisectOptions> = {}) =>
    bisect({ snapshot: find }, { good: 'snp_0', bad: `snp_${length - 1}`, command: 'true', ...options })
  return { search, tried, forks }
}

describe('bisect', () => {
  test.each([2, 3, 4, 7, 8, 9, 33])(
    'of %i snapshots finds each that may be the first bad one, in few tries',
    async (length) => {
      for (let firstBad = 1; firstBad < length; firstBad += 1) {
        const { search, tried, forks } = history(length, firstBad)
        const found = await search()
        expect([found.lastGood.id, found.firstBad.id]).toEqual([`snp_${firstBad - 1}`, `snp_${firstBad}`])
        expect(tried.length).toBeLessThanOrEqual(Math.ceil(Math.log2(length - 1)) + 2)
        expect(forks.open).toBe(0)
      }
    },
  )

  test('believes the ends where it is told to', async () => {
    const { search, tried } = history(9, 4)
    expect((await search({ trust: true })).firstBad.id).toBe('snp_4')
    expect(tried).not.toContain(0)
    expect(tried).not.toContain(8)
  })

  test('says so where the good one is bad or the bad one good', async () => {
    await expect(history(5, 0).search()).rejects.toThrow('fails in snp_0 already')
    await expect(history(5, 5).search()).rejects.toThrow('succeeds in snp_4')
  })

  test('refuses ends that do not belong together', async () => {
    const { search } = history(5, 3)
    await expect(search({ good: 'snp_4', bad: 'snp_0' })).rejects.toThrow('is not among the snapshots')
    await expect(search({ good: 'snp_2', bad: 'snp_2' })).rejects.toThrow('are the same')
  })

  test('leaves no fork behind when a try breaks off', async () => {
    const { search, forks } = history(5, 3, { fails: true })
    await expect(search()).rejects.toThrow('the sandbox is gone')
    expect(forks.open).toBe(0)
  })

  test('ends when it is told to', async () => {
    const { search } = history(9, 4)
    await expect(search({ signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
  })
})
