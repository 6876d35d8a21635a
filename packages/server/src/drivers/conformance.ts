import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { connectGuest, type ExecExit, type ExecStream, type GuestConnection } from '../guest/client.ts'
import { newId } from '../kernel/ids.ts'
import type { BoxSpec, Driver } from './driver.ts'

export interface OpenedDriver {
  driver: Driver
  /** Ends the driver and all that stands behind it. */
  close(): Promise<void>
  /**
   * What lies around on the host of boxes that were made here: processes, mounts, cgroups, loop devices, namespaces, files. Empty while there is no box
   * and no disk.
   */
  leftovers(): Promise<string[]>
  /** Kills what stands behind the driver as `kill -9` does, and opens a new one on what it left. */
  crash?(): Promise<Driver>
}

/** What a driver may lack, each with its reason. */
export type Ability = 'memory' | 'processes' | 'disk' | 'isolation' | 'own uid' | 'adoption' | 'freeze'

export interface ConformanceOptions {
  lacks?: Partial<Record<Ability, string>>
  template?: string
  runtime?: string
  /** Whose commands are tried. @default 'root' */
  user?: string
  /** A folder that lies on the box's disk. @default '/workspace' */
  folder?: (boxSpec: BoxSpec) => string
}

/** Making a box, several times over, on a machine that does other things too. */
const slowMs = 120_000
const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

interface Result extends ExecExit {
  stdout: string
  stderr: string
}

/** What every driver promises, tried with real boxes. */
export function testDriver(name: string, open: () => Promise<OpenedDriver>, options: ConformanceOptions = {}): void {
  const { lacks = {}, template = 'host', user = 'root', folder = () => '/workspace' } = options

  function specOf(changes: Partial<BoxSpec> = {}): BoxSpec {
    const own = newId('evt').slice(4)
    return {
      boxId: `box_${own}`,
      upperId: `upp_${own}`,
      fresh: true,
      template,
      runtime: options.runtime,
      cpuMilli: 1_000,
      memoryMb: 256,
      diskMb: 256,
      processes: 512,
      hostname: `sbx-${own}`,
      ...changes,
    }
  }

  const requestOf = (cwd: string, script: string) => requestFor(user, cwd, script)

  async function exec(guest: GuestConnection, cwd: string, script: string): Promise<Result> {
    return collect(await guest.exec(requestOf(cwd, script)))
  }

  describe(`driver ${name}`, () => {
    let opened: OpenedDriver
    let driver: Driver
    const guests: GuestConnection[] = []

    beforeAll(async () => {
      opened = await open()
      driver = opened.driver
    }, 2 * slowMs)

    afterAll(async () => {
      await opened?.close()
    }, 2 * slowMs)

    /** After every test nothing may be left, whichever way it went. */
    afterEach(async () => {
      for (const guest of guests.splice(0)) guest.close()
      const { boxes } = await driver.list()
      await Promise.all(boxes.map(({ boxId }) => driver.end(boxId, { keepUpper: false })))
      const { upperIds } = await driver.list()
      await Promise.all(upperIds.map((upperId) => driver.dropUpper(upperId)))
      expect(await driver.list()).toEqual({ boxes: [], upperIds: [] })
      await expect.poll(() => opened.leftovers(), { timeout: 10_000 }).toEqual([])
    }, slowMs)

    function needs(ability: Ability, title: string, work: () => Promise<void>): void {
      const reason = lacks[ability]
      if (reason === undefined) test(title, work, slowMs)
      else test.skip(`${title} [not here: ${reason}]`)
    }

    async function connect(boxId: string): Promise<GuestConnection> {
      const guest = await connectGuest(await driver.connect(boxId), { helloTimeoutMs: 30_000 })
      guests.push(guest)
      return guest
    }

    async function make(changes: Partial<BoxSpec> = {}) {
      const spec = specOf(changes)
      const box = await driver.create(spec)
      return { spec, box, guest: await connect(spec.boxId), cwd: folder(spec) }
    }

    test('says what it is', async () => {
      const info = await driver.info()
      expect(info.name).toBe(driver.name)
      for (const field of [info.runtime, info.cgroup, info.pool, info.kernel]) expect(field).not.toBe('')
      expect(info.templates).toContain(template)
      const templates = await driver.templates()
      expect(templates.find((each) => each.name === template)?.state).toBe('ready')
      for (const finding of await driver.doctor()) expect(finding.meaning).not.toBe('')
      const usage = await driver.usage()
      expect(usage.totalBytes).toBeGreaterThan(0)
      expect(usage.readOnly).toBe(false)
    })

    test(
      'a box runs commands and tells how long it took to make',
      async () => {
        const { spec, box, guest, cwd } = await make()
        expect(box.boxId).toBe(spec.boxId)
        expect(box.timings.length).toBeGreaterThan(0)
        for (const { phase, micros } of box.timings) {
          expect(phase).not.toBe('')
          expect(micros).toBeGreaterThanOrEqual(0)
        }
        const result = await exec(guest, cwd, 'echo out; echo err >&2; exit 3')
        expect(result).toMatchObject({ kind: 'exited', value: 3, stdout: 'out\n', stderr: 'err\n' })
      },
      slowMs,
    )

    test(
      'a stopped box starts again on its disk, with another life',
      async () => {
        const { spec, guest, cwd } = await make()
        await exec(
          guest,
          cwd,
          'mkdir -p deep/er && echo kept > deep/er/file && chmod 640 deep/er/file && ln -s deep link',
        )
        await driver.end(spec.boxId, { keepUpper: true })
        await guest.closed
        expect(await driver.list()).toEqual({ boxes: [], upperIds: [spec.upperId] })

        const again = await make({ upperId: spec.upperId, fresh: false })
        expect(again.guest.bootId).not.toBe(guest.bootId)
        const found = await exec(again.guest, folder(again.spec), 'cat link/er/file')
        expect(found.stdout).toBe('kept\n')
        // Asked of the guest: `stat` and `ls` of newer systems do not work on gVisor's kernel of 2022.
        expect(await again.guest.stat(`${folder(again.spec)}/deep/er/file`)).toMatchObject({ size: 5 })
        expect((await again.guest.stat(`${folder(again.spec)}/deep/er/file`)).mode & 0o777).toBe(0o640)
        await driver.end(again.spec.boxId, { keepUpper: false })
        expect(await driver.list()).toEqual({ boxes: [], upperIds: [] })
      },
      slowMs,
    )

    test(
      'ending ends every process, twice is once, and what never was has ended',
      async () => {
        const { spec, guest, cwd } = await make()
        // Those that ignore signals, hide in their own session and lose their parent included.
        await exec(
          guest,
          cwd,
          `trap '' TERM INT HUP; for i in 1 2 3; do setsid sh -c "trap '' TERM; sleep 600 & sleep 600" & done; sleep 0.2`,
        )
        await driver.end(spec.boxId, { keepUpper: false })
        await expect.poll(() => opened.leftovers(), { timeout: 10_000 }).toEqual([])
        await driver.end(spec.boxId, { keepUpper: false })
        await driver.end('box_neverwas', { keepUpper: true })
        await driver.dropUpper(spec.upperId)
        await driver.dropUpper('upp_neverwas')
      },
      slowMs,
    )

    test(
      'a disk in use is not dropped, and not used twice',
      async () => {
        const { spec, guest, cwd } = await make()
        await expect(driver.dropUpper(spec.upperId)).rejects.toThrow()
        await expect(driver.create(specOf({ upperId: spec.upperId, fresh: false }))).rejects.toThrow()
        await expect(driver.create(specOf({ upperId: spec.upperId, fresh: true }))).rejects.toThrow()
        await expect(driver.create({ ...specOf(), boxId: spec.boxId })).rejects.toThrow()
        expect((await exec(guest, cwd, 'echo fine')).stdout).toBe('fine\n')
        expect((await driver.list()).boxes.map(({ boxId }) => boxId)).toEqual([spec.boxId])
      },
      slowMs,
    )

    needs('freeze', 'a frozen box stands still, goes on when thawed, and can be ended frozen', async () => {
      const { spec, guest, cwd } = await make()
      const stream = await guest.exec(requestOf(cwd, 'while :; do echo x; sleep 0.01; done'))
      let seen = 0
      void stream.consume(({ bytes }) => void (seen += bytes.length)).catch(() => undefined)
      await expect.poll(() => seen).toBeGreaterThan(10)
      await driver.freeze(spec.boxId)
      expect((await driver.list()).boxes[0]?.state).toBe('frozen')
      // What was on its way arrives.
      await pause(200)
      const still = seen
      await pause(300)
      expect(seen).toBe(still)
      expect((await driver.stats(spec.boxId)).processes).toBeGreaterThan(1)
      await driver.thaw(spec.boxId)
      expect((await driver.list()).boxes[0]?.state).toBe('running')
      await expect.poll(() => seen).toBeGreaterThan(still + 10)
      await driver.freeze(spec.boxId)
      await driver.end(spec.boxId, { keepUpper: false })
    })

    test(
      'stats grow with what is done and know the limits',
      async () => {
        const { spec, guest, cwd } = await make()
        const before = await driver.stats(spec.boxId)
        await exec(guest, cwd, 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done')
        const after = await driver.stats(spec.boxId)
        expect(after.cpuMicros).toBeGreaterThan(before.cpuMicros)
        expect(after.memoryBytes).toBeGreaterThan(0)
        expect(after.processes).toBeGreaterThanOrEqual(1)
        expect(after.oomKills).toBe(0)
        if (lacks.memory === undefined) {
          expect(after.memoryLimitBytes).toBe(256 * 1024 * 1024)
          expect(after.memoryPeakBytes).toBeLessThanOrEqual(after.memoryLimitBytes)
        }
        if (lacks.disk === undefined && after.diskBytes !== null) {
          expect(after.diskLimitBytes).toBe(256 * 1024 * 1024)
          await exec(guest, cwd, 'head -c 20000000 /dev/urandom > f && sync f')
          const full = await driver.stats(spec.boxId)
          expect(full.diskBytes! - after.diskBytes).toBeGreaterThan(15_000_000)
        }
        await expect(driver.stats('box_neverwas')).rejects.toThrow()
      },
      slowMs,
    )

    needs('memory', 'a memory bomb dies within its limit; guest and neighbour live on', async () => {
      const [bomb, neighbour] = await Promise.all([make({ memoryMb: 96 }), make()])
      // tail keeps a line that never ends.
      const result = await exec(
        bomb.guest,
        bomb.cwd,
        'head -c 2000000000 /dev/zero | tail > /dev/null; exit ${PIPESTATUS:-$?}',
      )
      expect(result.value).not.toBe(0)
      const stats = await driver.stats(bomb.spec.boxId)
      expect(stats.oomKills).toBeGreaterThan(0)
      expect(stats.memoryPeakBytes).toBeLessThanOrEqual(1.1 * 96 * 1024 * 1024)
      expect((await exec(bomb.guest, bomb.cwd, 'echo alive')).stdout).toBe('alive\n')
      expect((await exec(neighbour.guest, neighbour.cwd, 'echo alive')).stdout).toBe('alive\n')
      expect((await driver.stats(neighbour.spec.boxId)).oomKills).toBe(0)
    })

    needs('processes', 'a fork bomb stops at its limit; guest and neighbour live on', async () => {
      const [bomb, neighbour] = await Promise.all([make({ processes: 40 }), make()])
      const script = 'i=0; while [ $i -lt 100 ]; do sleep 20 & i=$((i+1)); done; echo all'
      const result = await exec(bomb.guest, bomb.cwd, script)
      expect(result.stdout).not.toContain('all')
      const stats = await driver.stats(bomb.spec.boxId)
      expect(stats.processes).toBeGreaterThan(20)
      expect(stats.processes).toBeLessThanOrEqual(40)
      expect((await exec(neighbour.guest, neighbour.cwd, 'sh -c "echo alive"')).stdout).toBe('alive\n')
      expect((await bomb.guest.execs()).length).toBe(1)
    })

    needs('memory', 'limits changed while it runs hold like those it was made with', async () => {
      const { spec, guest, cwd } = await make({ memoryMb: 128, processes: 300 })
      const limits = { cpuMilli: 500, memoryMb: 384, diskMb: 64, processes: 40 }
      await driver.setLimits(spec.boxId, limits)
      const room = await exec(guest, cwd, 'x=$(head -c 150000000 /dev/zero | tr "\\0" x); echo ${#x}')
      expect(room.stdout, 'more memory than it was made with').toBe('150000000\n')
      if (lacks.processes === undefined) {
        await exec(guest, cwd, 'i=0; while [ $i -lt 100 ]; do sleep 20 & i=$((i+1)); done')
        expect((await driver.stats(spec.boxId)).processes).toBeLessThanOrEqual(40)
      }
      await driver.setLimits(spec.boxId, { ...limits, memoryMb: 128, processes: 200 })
      const bomb = await exec(guest, cwd, 'head -c 2000000000 /dev/zero | tail > /dev/null; exit ${PIPESTATUS:-$?}')
      expect(bomb.value).not.toBe(0)
      const stats = await driver.stats(spec.boxId)
      expect(stats.memoryLimitBytes).toBe(128 * 1024 * 1024)
      expect(stats.oomKills).toBeGreaterThan(0)
      await driver.end(spec.boxId, { keepUpper: false })
      await expect(driver.setLimits(spec.boxId, limits)).rejects.toThrow()
    })

    needs('disk', 'a disk that is made smaller or larger while it is used has that size', async () => {
      const { spec, guest, cwd } = await make({ memoryMb: 512, diskMb: 512 })
      const limits = { cpuMilli: 1_000, memoryMb: 512, diskMb: 64, processes: 512 }
      await driver.setLimits(spec.boxId, limits)
      expect((await driver.stats(spec.boxId)).diskLimitBytes).toBe(64 * 1024 * 1024)
      if ((await driver.info()).pool !== 'folder') {
        const full = await exec(guest, cwd, 'head -c 100000000 /dev/urandom > big')
        expect(full.stderr).toMatch(/No space left|quota exceeded/i)
      }
      await driver.setLimits(spec.boxId, { ...limits, diskMb: 300 })
      const fits = await exec(guest, cwd, 'head -c 100000000 /dev/urandom > big; sync')
      expect(fits).toMatchObject({ value: 0, stderr: '' })
      expect(await guest.stat(`${cwd}/big`)).toMatchObject({ size: 100_000_000 })
      expect((await driver.stats(spec.boxId)).diskLimitBytes).toBe(300 * 1024 * 1024)
    })

    test(
      'limits of what is not there are refused',
      async () => {
        const limits = { cpuMilli: 500, memoryMb: 128, diskMb: 64, processes: 40 }
        await expect(driver.setLimits('box_neverwas', limits)).rejects.toThrow()
        const { spec, guest, cwd } = await make()
        for (const wrong of [{ memoryMb: 0 }, { cpuMilli: 0 }, { processes: 0 }, { diskMb: 0 }]) {
          await expect(driver.setLimits(spec.boxId, { ...limits, ...wrong })).rejects.toThrow()
        }
        expect((await driver.stats(spec.boxId)).memoryLimitBytes).toBe(spec.memoryMb * 1024 * 1024)
        expect((await exec(guest, cwd, 'echo fine')).stdout).toBe('fine\n')
      },
      slowMs,
    )

    needs(
      'isolation',
      'whatever a memory or fork bomb does to its own box, the neighbour does not notice',
      async () => {
        const [memory, forks, neighbour] = await Promise.all([make({ memoryMb: 96 }), make({ processes: 200 }), make()])
        const bombs = [
          exec(memory.guest, memory.cwd, 'head -c 2000000000 /dev/zero | tail > /dev/null'),
          exec(forks.guest, forks.cwd, 'i=0; while [ $i -lt 500 ]; do sleep 20 & i=$((i+1)); done'),
        ]
        // A bomb may take its own guest with it.
        const ended = Promise.allSettled(bombs)
        for (let round = 0; round < 5; round += 1) {
          expect((await exec(neighbour.guest, neighbour.cwd, 'sh -c "echo alive"')).stdout).toBe('alive\n')
        }
        await ended
        expect((await exec(neighbour.guest, neighbour.cwd, 'sh -c "echo alive"')).stdout).toBe('alive\n')
        expect((await driver.stats(neighbour.spec.boxId)).oomKills).toBe(0)
      },
    )

    needs('disk', 'a full disk is full for its box alone, and room again when files go', async () => {
      if ((await driver.info()).pool === 'folder') {
        process.stderr.write(
          `driver ${name}: the disk quota was not tried, since the pool is a plain folder without quotas\n`,
        )
        return
      }
      const [full, neighbour] = await Promise.all([make({ diskMb: 64 }), make()])
      const result = await exec(full.guest, full.cwd, 'head -c 200000000 /dev/urandom > big')
      expect(result.value).not.toBe(0)
      expect(result.stderr).toMatch(/No space left|quota exceeded/i)
      const { size } = await full.guest.stat(`${full.cwd}/big`)
      expect(size).toBeGreaterThan(32 * 1024 * 1024)
      expect(size).toBeLessThanOrEqual(1.1 * 64 * 1024 * 1024)
      expect(
        (await exec(neighbour.guest, neighbour.cwd, 'head -c 50000000 /dev/urandom > big && echo fits')).stdout,
      ).toBe('fits\n')
      expect(
        (
          await exec(
            full.guest,
            full.cwd,
            'rm big && sync && sleep 0.1 && head -c 10000000 /dev/urandom > small && echo fits',
          )
        ).stdout,
      ).toBe('fits\n')
    })

    test(
      'what cannot be made is refused with its own code and leaves nothing',
      async () => {
        await expect(driver.create(specOf({ template: 'nothere' }))).rejects.toMatchObject({
          code: 'template_not_found',
        })
        await expect(driver.create(specOf({ fresh: false }))).rejects.toMatchObject({ name: 'DeltaError' })
        expect(await driver.list()).toEqual({ boxes: [], upperIds: [] })
        expect(await opened.leftovers()).toEqual([])
      },
      slowMs,
    )

    const bad: [string, Partial<BoxSpec>][] = [
      ['a box id that is a path', { boxId: '../../etc' }],
      ['an empty box id', { boxId: '' }],
      ['a box id that is too long', { boxId: `box_${'a'.repeat(41)}` }],
      ['a box id with NUL', { boxId: 'box_a\0b' }],
      ['a disk id that is a path', { upperId: 'upp_/../x' }],
      ['a template that is a path', { template: '../host' }],
      ['a host name of several lines', { hostname: 'a\nb' }],
      ['a host name that is too long', { hostname: 'a'.repeat(300) }],
      ['a runtime that is a program', { runtime: '/bin/sh' }],
      ['no memory', { memoryMb: 0 }],
      ['no processor', { cpuMilli: 0 }],
      ['no processes', { processes: 0 }],
    ]
    test.each(bad)(
      '%s is refused, and nothing is made',
      async (_what, changes) => {
        await expect(driver.create(specOf(changes))).rejects.toMatchObject({ name: 'DeltaError' })
        expect(await driver.list()).toEqual({ boxes: [], upperIds: [] })
      },
      slowMs,
    )

    test(
      'the death of the first process is told, once, and the disk is kept',
      async () => {
        const died: [string, { oom: boolean }][] = []
        const stop = driver.onDeath((boxId, cause) => died.push([boxId, cause]))
        const { spec, box, guest, cwd } = await make()
        const other = await make()
        await exec(guest, cwd, 'echo kept > file; sync file')
        process.kill(box.pid, 'SIGKILL')
        await expect.poll(() => died, { timeout: 10_000 }).toEqual([[spec.boxId, { oom: false }]])
        await guest.closed
        const dead = (await driver.list()).boxes.find(({ boxId }) => boxId === spec.boxId)
        expect(dead).toMatchObject({ state: 'dead', upperId: spec.upperId })
        await expect(driver.connect(spec.boxId)).rejects.toMatchObject({ code: 'guest_unreachable' })
        await driver.end(spec.boxId, { keepUpper: true })
        const again = await make({ upperId: spec.upperId, fresh: false })
        expect((await exec(again.guest, folder(again.spec), 'cat file')).stdout).toBe('kept\n')
        expect((await exec(other.guest, other.cwd, 'echo fine')).stdout).toBe('fine\n')
        stop()
        await driver.end(again.spec.boxId, { keepUpper: false })
        expect(died).toHaveLength(1)
      },
      slowMs,
    )

    test(
      'an end that was asked for is no death',
      async () => {
        const died: string[] = []
        const stop = driver.onDeath((boxId) => died.push(boxId))
        const { spec } = await make()
        await driver.end(spec.boxId, { keepUpper: false })
        const next = await make()
        await driver.end(next.spec.boxId, { keepUpper: false })
        stop()
        expect(died).toEqual([])
      },
      slowMs,
    )

    test(
      'the list tells what there is',
      async () => {
        const [running, kept] = await Promise.all([make(), make()])
        await driver.end(kept.spec.boxId, { keepUpper: true })
        expect(await driver.list()).toEqual({
          boxes: [{ boxId: running.spec.boxId, upperId: running.spec.upperId, state: 'running', template }],
          upperIds: [kept.spec.upperId],
        })
      },
      slowMs,
    )

    test(
      'several connections share one guest, and 20 MB arrive as they were sent',
      async () => {
        const { spec, guest, cwd } = await make()
        const other = await connect(spec.boxId)
        expect(other.bootId).toBe(guest.bootId)
        const script = 'head -c 20000000 /dev/zero | tr "\\0" x'
        const [one, two] = await Promise.all([exec(guest, cwd, script), exec(other, cwd, script)])
        expect(one.stdout === 'x'.repeat(20_000_000)).toBe(true)
        expect(two.stdout === one.stdout).toBe(true)
      },
      slowMs,
    )

    test(
      'twenty at once are all made, each for itself',
      async () => {
        const all = await Promise.all(Array.from({ length: 20 }, () => make({ memoryMb: 64, diskMb: 64 })))
        const names = await Promise.all(
          all.map(async ({ guest, cwd, spec }) => {
            await exec(guest, cwd, `echo ${spec.boxId} > me`)
            return (await exec(guest, cwd, 'cat me')).stdout.trim()
          }),
        )
        expect(names).toEqual(all.map(({ spec }) => spec.boxId))
        expect(new Set(all.map(({ guest }) => guest.bootId)).size).toBe(20)
        await Promise.all(all.map(({ spec }) => driver.end(spec.boxId, { keepUpper: false })))
      },
      slowMs,
    )

    needs('own uid', 'root inside is an unprivileged uid outside, and each box has its own', async () => {
      const all = await Promise.all([make(), make(), make()])
      const uids = all.map(({ box }) => uidOf(box.pid))
      expect(new Set(uids).size).toBe(3)
      for (const [index, { guest, cwd }] of all.entries()) {
        expect(uids[index]).toBeGreaterThan(65_535)
        expect(all[index]!.box.uids?.first).toBe(uids[index])
        const inside = await exec(guest, cwd, 'id -u; cat /proc/self/uid_map')
        expect(inside.stdout.trim().split(/\s+/).slice(0, 3)).toEqual(['0', '0', `${uids[index]}`])
      }
    })

    needs('isolation', 'nothing of the host is seen: files, processes, network, variables', async () => {
      const canary = `/tmp/delta-canary-${newId('evt')}`
      writeFileSync(canary, 'host')
      try {
        const { spec, guest, cwd } = await make()
        expect((await exec(guest, cwd, `cat ${canary}`)).value).not.toBe(0)
        await exec(guest, cwd, `echo inside > ${canary}`)
        expect(readFileSync(canary, 'utf8')).toBe('host')
        // The guest, the shell and what it starts.
        const pids = (await exec(guest, cwd, 'echo /proc/[0-9]*')).stdout.trim().split(' ')
        expect(pids.length).toBeLessThanOrEqual(5)
        expect((await exec(guest, cwd, 'wc -l < /proc/net/route')).stdout).toMatch(/^[01]\n$/)
        expect((await exec(guest, cwd, 'hostname 2>/dev/null || cat /proc/sys/kernel/hostname')).stdout.trim()).toBe(
          spec.hostname,
        )
        expect((await exec(guest, cwd, 'tr "\\0" "\\n" < /proc/1/environ')).stdout).not.toMatch(
          /DELTA|HOME=\/root\/|npm_/,
        )
        expect(existsSync(canary)).toBe(true)
      } finally {
        rmSync(canary, { force: true })
      }
    })

    needs(
      'adoption',
      'after a kill -9 of the helper boxes run on: execs go on, their output resumes, files are there',
      async () => {
        const { spec, guest, cwd } = await make()
        const frozen = await make()
        await driver.freeze(frozen.spec.boxId)
        const kept = await make()
        await driver.end(kept.spec.boxId, { keepUpper: true })
        const request = requestOf(cwd, 'i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 7')
        const stream = await guest.exec(request)
        let read = ''
        for await (const { bytes } of stream.output) {
          read += bytes.toString()
          if (read.length > 100) break
        }
        driver = await opened.crash!()

        const { boxes, upperIds } = await driver.list()
        expect(boxes.map(({ boxId, state }) => [boxId, state]).toSorted()).toEqual(
          [
            [spec.boxId, 'running'],
            [frozen.spec.boxId, 'frozen'],
          ].toSorted(),
        )
        expect(upperIds).toEqual([kept.spec.upperId])
        const again = await connect(spec.boxId)
        expect(again.bootId).toBe(guest.bootId)
        const rest = await collect(await again.attach(request.execId, { from: read.length }))
        expect(read + rest.stdout).toBe(Array.from({ length: 300 }, (_, index) => `${index}\n`).join(''))
        expect(rest).toMatchObject({ kind: 'exited', value: 7 })
        // What it adopted it can measure, hear die and end like its own.
        expect((await driver.stats(spec.boxId)).cpuMicros).toBeGreaterThan(0)
        await driver.thaw(frozen.spec.boxId)
        expect((await exec(await connect(frozen.spec.boxId), folder(frozen.spec), 'echo thawed')).stdout).toBe(
          'thawed\n',
        )
        await make({ upperId: kept.spec.upperId, fresh: false })
      },
    )
  })
}

function requestFor(user: string, cwd: string, script: string) {
  return {
    execId: newId('exe'),
    argv: ['/bin/sh', '-c', script],
    env: { PATH: path, LANG: 'C.UTF-8' },
    cwd,
    user,
    timeoutMs: 90_000,
    keepStdin: false,
  }
}

async function collect(stream: ExecStream): Promise<Result> {
  const parts = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
  const exit = await stream.consume(({ stream: name, bytes }) => void parts[name].push(Buffer.from(bytes)))
  return { ...exit, stdout: Buffer.concat(parts.stdout).toString(), stderr: Buffer.concat(parts.stderr).toString() }
}

function uidOf(pid: number): number {
  const [, uid] = /^Uid:\s+([0-9]+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(uid)
}

function pause(durationMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, durationMs))
}
