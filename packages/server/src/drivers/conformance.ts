import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { connectGuest, type ExecExit, type ExecStream, type GuestConnection } from '../guest/client.ts'
import { newId } from '../kernel/ids.ts'
import type { BoxSpec, DeathCause, Driver } from './driver.ts'

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
export type Ability =
  | 'memory'
  | 'processes'
  | 'disk'
  | 'isolation'
  | 'own uid'
  | 'adoption'
  | 'freeze'
  | 'files as they are'

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

/** Something of every kind that a plain program can make. */
const history = [
  'mkdir -p deep sub/er',
  'head -c 200000 /dev/urandom > deep/file',
  'ln deep/file hard',
  'ln -s deep soft',
  ': > empty',
  'echo s > sub/er/file',
  'chmod 4750 deep/file',
  'chmod 1777 sub',
  'mkfifo pipe',
  'touch -d @1234567890.123456789 sub/er/file',
].join(' && ')
/** Everything that can be seen of a folder. */
const listing =
  "find . -printf '%p %y %m %U:%G %l ' \\( -type d -printf '\\n' -o -printf '%n %s %T@\\n' \\) | sort; cat deep/file | cksum"

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
      await dropDisks(driver)
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

    /** A box whose disk is kept as a snapshot right away, and what its folder says then. */
    async function makeKept(script: string) {
      const made = await make()
      // Synced, since what gVisor keeps in its own memory is not seen from outside.
      expect(await exec(made.guest, made.cwd, `${script} && sync`)).toMatchObject({ value: 0 })
      const snapshotId = snapshotIdOf(made.spec)
      const taken = await driver.snapshot(made.spec.upperId, snapshotId)
      expect(taken.flushMicros).toBeGreaterThanOrEqual(0)
      return { ...made, snapshotId }
    }

    async function look(box: Awaited<ReturnType<typeof make>>): Promise<string> {
      return (await exec(box.guest, box.cwd, listing)).stdout
    }

    /** Starts a box on what a snapshot holds, on an upper of its own. */
    async function fork(snapshotId: string, changes: Partial<BoxSpec> = {}) {
      const { upperId } = specOf()
      await driver.makeUpper({ upperId, from: snapshotId, diskMb: 256 })
      return make({ upperId, fresh: false, ...changes })
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
          // A pool may count only with its next transaction, which a busy disk puts off.
          const grown = async () => (await driver.stats(spec.boxId)).diskBytes! - after.diskBytes!
          await expect.poll(grown, { timeout: 40_000, interval: 250 }).toBeGreaterThan(15_000_000)
        }
        await expect(driver.stats('box_neverwas')).rejects.toThrow()
        const measured = await driver.measure(['box_neverwas', spec.boxId])
        expect([...measured.keys()]).toEqual([spec.boxId])
        expect(measured.get(spec.boxId)!.cpuMicros).toBeGreaterThanOrEqual(after.cpuMicros)
        expect(measured.get(spec.boxId)!.memoryBytes).toBeGreaterThan(0)
        expect(await driver.measure([])).toEqual(new Map())
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

    needs('disk', 'what only snapshots still hold is not taken from what a disk may get', async () => {
      const { spec, guest, cwd } = await make({ diskMb: 64 })
      const snapshotIds = [1, 2, 3].map(() => snapshotIdOf(specOf()))
      for (const snapshotId of snapshotIds) {
        const written = await exec(guest, cwd, 'head -c 40000000 /dev/zero > big && sync')
        expect(written).toMatchObject({ value: 0, stderr: '' })
        await driver.snapshot(spec.upperId, snapshotId)
        const { diskBytes, diskLimitBytes } = await driver.stats(spec.boxId)
        expect(diskLimitBytes).toBe(64 * 1024 * 1024)
        if (diskBytes !== null) expect(diskBytes).toBeLessThan(10_000_000)
      }
      await driver.end(spec.boxId, { keepUpper: false })
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

    needs(
      'files as they are',
      'a snapshot of a running box has what it wrote, the box goes on, and forks of it are apart',
      async () => {
        const kept = await makeKept(history)
        const before = await look(kept)
        expect(before).toContain('deep/file')
        await exec(kept.guest, kept.cwd, 'echo later > deep/file; rm empty')
        const [one, two] = [await fork(kept.snapshotId), await fork(kept.snapshotId)]
        expect(await look(one)).toBe(before)
        await exec(one.guest, one.cwd, 'echo mine > deep/file; rm -r sub')
        expect(await look(two)).toBe(before)
        expect((await exec(kept.guest, kept.cwd, 'cat deep/file')).stdout).toBe('later\n')
        expect((await driver.disks()).snapshots).toEqual([{ snapshotId: kept.snapshotId, template }])
      },
    )

    test(
      'a snapshot of a stopped box rolls it back to what it was',
      async () => {
        const { spec, guest, cwd } = await make()
        await exec(guest, cwd, history)
        await driver.end(spec.boxId, { keepUpper: true })
        const snapshotId = snapshotIdOf(spec)
        expect((await driver.snapshot(spec.upperId, snapshotId)).frozenMicros).toBe(0)
        const damaged = await make({ upperId: spec.upperId, fresh: false })
        const before = await look(damaged)
        await exec(damaged.guest, damaged.cwd, 'rm -r deep sub; echo broken > empty')
        await driver.end(damaged.spec.boxId, { keepUpper: true })
        const back = await fork(snapshotId)
        await driver.dropUpper(spec.upperId)
        expect(await look(back)).toBe(before)
        // The snapshot has given all it held: it may go.
        await driver.dropSnapshot(snapshotId)
        await driver.dropSnapshot(snapshotId)
        expect(await look(back)).toBe(before)
      },
      slowMs,
    )

    needs(
      'files as they are',
      'boxes share a snapshot as their template, and what something stands on is not dropped',
      async () => {
        const kept = await makeKept(history)
        const before = await look(kept)
        await driver.end(kept.spec.boxId, { keepUpper: false })
        const onIt = { template: kept.snapshotId }
        const [one, two] = [await make(onIt), await make(onIt)]
        expect([await look(one), await look(two)]).toEqual([before, before])
        await exec(one.guest, one.cwd, 'rm -r deep; echo x > new')
        expect(await look(two)).toBe(before)
        await expect(driver.dropSnapshot(kept.snapshotId)).rejects.toMatchObject({ code: 'disk_in_use' })
        const above = snapshotIdOf(one.spec)
        await driver.snapshot(one.spec.upperId, above)
        await Promise.all([one, two].map(({ spec }) => driver.end(spec.boxId, { keepUpper: false })))
        await expect(driver.dropSnapshot(kept.snapshotId)).rejects.toMatchObject({ code: 'disk_in_use' })
        const third = await fork(above, onIt)
        expect((await exec(third.guest, third.cwd, 'cat new; ls deep 2>/dev/null')).stdout).toBe('x\n')
      },
    )

    test(
      'an upper starts only on the template it was made on',
      async () => {
        const kept = await makeKept('echo x > file')
        const { upperId } = specOf()
        await driver.makeUpper({ upperId, from: kept.snapshotId, diskMb: 256, empty: true })
        await expect(driver.create(specOf({ upperId, fresh: false }))).rejects.toMatchObject({
          code: 'invalid_request',
        })
        const right = await make({ upperId, fresh: false, template: kept.snapshotId })
        expect((await exec(right.guest, right.cwd, 'cat file')).stdout).toBe('x\n')
      },
      slowMs,
    )

    needs(
      'files as they are',
      'what is packed from one disk and unpacked onto another is the same, a layer for each snapshot',
      async () => {
        const kept = await makeKept(history)
        await exec(kept.guest, kept.cwd, 'rm -r sub; echo changed > empty; mkdir added; echo y > added/file')
        const second = snapshotIdOf(specOf())
        await driver.snapshot(kept.spec.upperId, second)
        const wanted = await look(kept)
        const { upperId } = specOf()
        await driver.makeUpper({ upperId, from: template, diskMb: 256 })
        const limits = { upperId, maxBytes: 2 ** 28, maxEntries: 10_000 }
        const first = await driver.apply(limits, copies(driver.pack({ source: kept.snapshotId })))
        expect(first.entries).toBeGreaterThan(4)
        await driver.apply(limits, copies(driver.pack({ source: second, parent: kept.snapshotId })))
        expect(await look(await make({ upperId, fresh: false }))).toBe(wanted)

        const changes = await collectAll(driver.changes({ snapshotId: second, parent: kept.snapshotId }))
        const own = (end: string) => changes.find(({ path: at }) => at.endsWith(`/${end}`))
        expect(own('added/file')).toMatchObject({ kind: 'added', type: 'file', size: 2 })
        expect(own('empty')).toMatchObject({ kind: 'changed', type: 'file', size: 8 })
        expect(own('sub')).toMatchObject({ kind: 'removed' })
        const file = driver.readFile({ snapshotId: second, path: own('added/file')!.path })
        expect(Buffer.concat(await collectAll(file)).toString()).toBe('y\n')
        const missing = driver.readFile({ snapshotId: second, path: `${own('added/file')!.path}x` })
        await expect(collectAll(missing)).rejects.toMatchObject({ code: 'file_not_found' })
      },
    )

    test(
      'what is no layer, or too much of one, is refused, and the disk can be dropped at once',
      async () => {
        const kept = await makeKept('head -c 300000 /dev/urandom > big')
        const { upperId } = specOf()
        await driver.makeUpper({ upperId, from: template, diskMb: 256 })
        const noise = async function* () {
          for (let sent = 0; sent < 40; sent += 1) yield Buffer.alloc(65_536, `noise ${sent} `)
        }
        const limits = { upperId, maxBytes: 2 ** 28, maxEntries: 10_000 }
        await expect(driver.apply(limits, noise())).rejects.toMatchObject({ code: 'layer_invalid' })
        const small = driver.apply({ ...limits, maxBytes: 1_000 }, copies(driver.pack({ source: kept.snapshotId })))
        await expect(small).rejects.toMatchObject({ code: 'layer_too_large' })
        const stopped = driver.pack({ source: kept.snapshotId })[Symbol.asyncIterator]()
        await stopped.next()
        await stopped.return?.()
        await driver.dropUpper(upperId)
      },
      slowMs,
    )

    test(
      'disks that are missing, there already or used are refused with their own code',
      async () => {
        const { spec, snapshotId } = await makeKept('echo x > file')
        const { upperId } = specOf()
        const never = 'snp_neverwas'
        const refused: [() => Promise<unknown>, string][] = [
          [() => driver.snapshot('upp_neverwas', never), 'disk_not_found'],
          [() => driver.snapshot(spec.upperId, snapshotId), 'disk_exists'],
          [() => driver.makeUpper({ upperId, from: never, diskMb: 64 }), 'disk_not_found'],
          [() => driver.makeUpper({ upperId: spec.upperId, from: snapshotId, diskMb: 64 }), 'disk_exists'],
          [() => collectAll(driver.pack({ source: never })), 'disk_not_found'],
          [() => collectAll(driver.changes({ snapshotId, parent: never })), 'disk_not_found'],
          [() => driver.apply({ upperId: spec.upperId, maxBytes: 1, maxEntries: 1 }, nothing()), 'disk_in_use'],
          [() => driver.create(specOf({ template: never })), 'template_not_found'],
        ]
        for (const [call, code] of refused) await expect(call()).rejects.toMatchObject({ code })
        await driver.dropSnapshot(never)
        await driver.dropVolume('vol_neverwas')
      },
      slowMs,
    )

    test(
      'a volume is shared by boxes, outlives them, and is not dropped while one uses it',
      async () => {
        const volumeId = `vol_${newId('evt').slice(4)}`
        await driver.makeVolume({ volumeId, diskMb: 64 })
        await expect(driver.makeVolume({ volumeId, diskMb: 64 })).rejects.toMatchObject({ code: 'disk_exists' })
        const at = (readOnly: boolean) => ({ volumes: [{ volumeId, path: '/workspace/shared', readOnly }] })
        const [writer, reader] = [await make(at(false)), await make(at(true))]
        expect(await exec(writer.guest, writer.cwd, 'echo hello > shared/file')).toMatchObject({ value: 0 })
        expect((await exec(reader.guest, reader.cwd, 'cat shared/file')).stdout).toBe('hello\n')
        if (lacks.isolation === undefined) {
          expect((await exec(reader.guest, reader.cwd, 'echo no > shared/file')).value).not.toBe(0)
        }
        await expect(driver.dropVolume(volumeId)).rejects.toMatchObject({ code: 'disk_in_use' })
        await Promise.all([writer, reader].map(({ spec }) => driver.end(spec.boxId, { keepUpper: false })))
        const later = await make(at(true))
        expect((await exec(later.guest, later.cwd, 'cat shared/file')).stdout).toBe('hello\n')
        await driver.end(later.spec.boxId, { keepUpper: false })
        expect((await driver.disks()).volumeIds).toEqual([volumeId])
        await driver.dropVolume(volumeId)
        await expect(driver.create(specOf(at(false)))).rejects.toThrow()
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
        const died: [string, DeathCause][] = []
        const stop = driver.onDeath((boxId, cause) => died.push([boxId, cause]))
        const { spec, box, guest, cwd } = await make()
        const other = await make()
        await exec(guest, cwd, 'echo kept > file; sync file')
        process.kill(box.pid, 'SIGKILL')
        await expect.poll(() => died, { timeout: 10_000 }).toEqual([[spec.boxId, 'guest_died']])
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

/** Snapshots that stand on others go after them. */
async function dropDisks(driver: Driver): Promise<void> {
  for (;;) {
    const { snapshots, volumeIds } = await driver.disks()
    for (const volumeId of volumeIds) await driver.dropVolume(volumeId)
    if (snapshots.length === 0) return
    const below = new Set(snapshots.map(({ template }) => template))
    for (const { snapshotId } of snapshots) if (!below.has(snapshotId)) await driver.dropSnapshot(snapshotId)
  }
}

function snapshotIdOf({ upperId }: BoxSpec): string {
  return `snp_${upperId.slice(4)}`
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

/** For whoever still has a piece when the next is asked for. */
async function* copies(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) yield Uint8Array.from(piece)
}

async function collectAll<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const all: Item[] = []
  for await (const item of items) all.push(item)
  return all
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
