import { createHash } from 'node:crypto'
import { createWriteStream, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Driver, TemplateStatus } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { HashBody } from '../kernel/http/body-hash.ts'
import { newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { OpenBox } from './box.ts'
import { createBuildLogs } from './build-log.ts'
import type { BuildLog, LogLine } from './build-log.ts'
import { buildPlan, scratchBase } from './builder.ts'
import type { Base, Built } from './builder.ts'
import { catalogue, inCatalogue } from './catalogue.ts'
import { openContext, contextLimits } from './context/context.ts'
import { unpackArchive } from './context/unpack.ts'
import type { BuildDisks, DiskCaller } from './disks.ts'
import { checkInstruction, emptyConfig } from './dockerfile/evaluate.ts'
import type { ImageConfig } from './dockerfile/evaluate.ts'
import { dockerfileLimits } from './dockerfile/parse.ts'
import { planDockerfile } from './dockerfile/plan.ts'
import type { BuildPlan } from './dockerfile/plan.ts'
import { configOf, openArchive } from './image-source.ts'
import type { ImageSource } from './image-source.ts'
import { importImage } from './importer.ts'
import type { Account, Registry } from './registry/client.ts'
import { parseReference, referenceText, registryOf } from './registry/reference.ts'
import type { ImageReference } from './registry/reference.ts'
import { parseTemplateReference } from './names.ts'
import { createSpace } from '../storage/space.ts'
import { templateLimits } from './schema.ts'
import type { Auth, CreateTemplate, FromDockerfile, Template, TemplateSource } from './schema.ts'
import { createTemplateStore } from './store.ts'
import type { TemplateRecord } from './store.ts'

export interface TemplatesDeps {
  database: Database
  driver: Pick<Driver, 'templates' | 'buildTemplate' | 'changes' | 'readFile' | 'room'>
  disks: BuildDisks
  openBox: OpenBox
  /** Ends sandboxes that a build of an earlier life of the server left. */
  endBoxesOf: (templateId: string, caller: DiskCaller) => Promise<void>
  /** One of the machine is another than it was: what was made of it before is not to be handed out. */
  onBuilt?(name: string): void
  registry: Registry
  hashBody: HashBody
  clock: Clock
  log: Logger
  settings: TemplateSettings
}

export interface TemplateSettings {
  /** Files that were sent, and logs, lie here. */
  folder: string
  /** `linux/amd64`. */
  platform: string
}

export interface TemplateCaller {
  accountId: string
  /** Throws where the server may not fetch from that host for them. @default it may */
  checkHost?: (host: string) => void
}

/** What a sandbox starts from. */
export interface ResolvedTemplate {
  /** As the driver knows it. */
  template: string
  /** As it is shown: `name@version`. */
  name: string
  env: Record<string, string>
  /** Where it is another than the usual one. */
  cwd?: string
  user?: string
}

interface Keyed {
  idempotencyKey?: string | undefined
}

/** Work at once; the rest waits. */
const buildsAtOnce = 2
const mostBuilds = 64
/** What ADD fetches and unpacks for one build, all of it together. */
const mostKeptBytes = 2 * contextLimits.bytes

export type Templates = ReturnType<typeof createTemplates>

export function createTemplates(deps: TemplatesDeps) {
  const { driver, disks, registry, clock, log, settings } = deps
  const store = createTemplateStore(deps.database)
  const logs = createBuildLogs({ folder: join(settings.folder, 'build-logs'), clock })
  const space = createSpace({ folder: settings.folder, room: driver.room })
  const running = new Map<string, { abort: AbortController; done: Promise<void> }>()
  const onMachine = new Map<string, Promise<void>>()
  const waiting: (() => void)[] = []
  let busy = 0

  // ── what there is ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async function list({ accountId }: TemplateCaller): Promise<Template[]> {
    const [machine, own] = await Promise.all([
      driver.templates(),
      store.list(accountId, { limit: templateLimits.versions }),
    ])
    const known = new Set(own.map(({ name }) => name))
    const missing = catalogue.filter(({ name }) => !known.has(name))
    const views = await viewsOf(accountId, own)
    return [
      ...machine.filter(({ name }) => name !== 'scratch').map(machineView),
      ...views,
      ...missing.map(catalogueView),
    ]
  }

  async function versions(name: string, { accountId }: TemplateCaller): Promise<Template[]> {
    const own = await store.list(accountId, { name, limit: templateLimits.versions })
    if (own.length === 0) throw notFound(name)
    return viewsOf(accountId, own)
  }

  async function viewsOf(accountId: string, records: readonly TemplateRecord[]): Promise<Template[]> {
    const tags = await store.tags(
      accountId,
      records.map(({ id }) => id),
    )
    return records.map((record) => viewOf(record, tags.get(record.id) ?? []))
  }

  async function recordOf(text: string, { accountId }: TemplateCaller): Promise<TemplateRecord> {
    const reference = parseTemplateReference(text)
    const found = reference && (await store.find(accountId, reference))
    if (!found) throw notFound(text)
    return found
  }

  async function get(text: string, caller: TemplateCaller): Promise<Template> {
    const machine = (await driver.templates()).find(({ name }) => name === text && name !== 'scratch')
    if (machine) return machineView(machine)
    const reference = parseTemplateReference(text)
    const found = reference && (await store.find(caller.accountId, reference))
    if (found) return (await viewsOf(caller.accountId, [found]))[0]!
    const entry = inCatalogue(text)
    if (entry) return catalogueView(entry)
    throw notFound(text)
  }

  // ── making them ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  interface Wish {
    name: string
    tags: readonly string[]
    source: TemplateSource
    timeoutMs: number
    make: (work: Work) => Promise<Made>
  }

  /** What one build has at hand. */
  interface Work {
    record: TemplateRecord
    caller: TemplateCaller
    signal: AbortSignal
    log: BuildLog
    /** Files that go with the build. */
    folder: string
    diskPrefix: string
  }

  interface Made {
    snapshotId: string
    config: ImageConfig
    digest: string | null
    detail: string
  }

  async function begin(
    wish: Wish,
    caller: TemplateCaller,
    { idempotencyKey, hashed }: Keyed & { hashed: unknown },
  ): Promise<TemplateRecord> {
    const { accountId } = caller
    const request = idempotencyKey === undefined ? undefined : { key: idempotencyKey, bodyHash: deps.hashBody(hashed) }
    for (;;) {
      const earlier = request && (await store.byRequest(accountId, request.key))
      if (earlier?.bodyHash === request?.bodyHash && earlier) return earlier.record
      if (earlier) throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
      if (driver.room().state !== 'fine')
        throw new DeltaError('disk_full', 'The disk of the server is nearly full: no template is made')
      if (running.size >= mostBuilds)
        throw new DeltaError('capacity_exhausted', `${mostBuilds} templates are being made already`)
      if ((await store.count(accountId)) >= templateLimits.versions) {
        throw new DeltaError(
          'capacity_exhausted',
          `There are ${templateLimits.versions} versions of templates: delete some`,
        )
      }
      const record: TemplateRecord = {
        id: newId('tpl'),
        accountId,
        name: wish.name,
        version: await store.nextVersion(accountId, wish.name),
        state: 'building',
        source: wish.source,
        detail: '',
        failure: null,
        digest: null,
        snapshotId: null,
        config: null,
        createdAt: clock.now(),
        endedAt: null,
      }
      if (!(await store.insert(record, request))) continue
      const abort = new AbortController()
      const done = carryOut(record, wish, { caller, signal: abort.signal, abort })
      running.set(record.id, { abort, done })
      return record
    }
  }

  async function carryOut(
    record: TemplateRecord,
    wish: Wish,
    { caller, signal, abort }: { caller: TemplateCaller; signal: AbortSignal; abort: AbortController },
  ): Promise<void> {
    // Before anything is waited for: whoever follows the build as soon as it is known must not find it over.
    const buildLog = logs.open(record.id)
    const folder = join(settings.folder, 'builds', record.id)
    const timer = new AbortController()
    log.info('template_build_started', {
      templateId: record.id,
      name: record.name,
      version: record.version,
      source: wish.source.kind,
    })
    try {
      logs.makeRoom((await store.ids(record.accountId)).filter((id) => id !== record.id))
      mkdirSync(folder, { recursive: true })
      await turn(signal, buildLog)
      const late = new DeltaError('template_build_failed', `The build took longer than ${wish.timeoutMs} ms`)
      clock.sleep(wish.timeoutMs, timer.signal).then(
        () => abort.abort(late),
        () => undefined,
      )
      try {
        const made = await wish.make({
          record,
          caller,
          signal,
          log: buildLog,
          folder,
          diskPrefix: diskPrefixOf(record.id),
        })
        signal.throwIfAborted()
        if (!(await disks.pin(made.snapshotId, record.id)))
          throw new DeltaError('template_build_failed', 'Its snapshot was removed')
        await store.end({ ...record, ...made, state: 'ready', endedAt: clock.now() }, wish.tags)
        buildLog.add('step', `Ready: ${record.name}@${record.version}`)
        log.info('template_ready', { templateId: record.id, name: record.name, version: record.version })
      } finally {
        leave()
      }
    } catch (cause) {
      await fail(record, cause, buildLog)
    } finally {
      timer.abort()
      rmSync(folder, { recursive: true, force: true })
      running.delete(record.id)
      buildLog.close()
    }
  }

  async function fail(record: TemplateRecord, cause: unknown, buildLog: BuildLog): Promise<void> {
    const known = cause instanceof DeltaError ? cause : undefined
    if (!known) log.error('template_build_broke', { templateId: record.id, error: cause })
    const why = typeof known?.cause === 'string' ? known.cause : undefined
    const failure = {
      code: known?.code ?? 'internal',
      message: known?.message ?? 'The server made a mistake',
      ...(why !== undefined && { cause: why }),
    }
    const state = known?.code === 'canceled' ? 'canceled' : 'failed'
    const detail = why === undefined ? failure.message : `${failure.message}: ${why}`
    buildLog.add('note', detail)
    log.info('template_build_failed', { templateId: record.id, code: failure.code, detail })
    await store
      .end({ ...record, state, detail, failure, endedAt: clock.now() }, [])
      .catch((error: unknown) => log.error('template_row_left_behind', { templateId: record.id, error }))
  }

  async function turn(signal: AbortSignal, buildLog: BuildLog): Promise<void> {
    if (busy < buildsAtOnce) {
      busy += 1
      return
    }
    buildLog.add('note', `Waiting: ${buildsAtOnce} templates are being made`)
    await new Promise<void>((enter, giveUp) => {
      const go = (): void => {
        signal.removeEventListener('abort', onAbort)
        enter()
      }
      const onAbort = (): void => {
        waiting.splice(waiting.indexOf(go), 1)
        giveUp(signal.reason as Error)
      }
      signal.addEventListener('abort', onAbort, { once: true })
      waiting.push(go)
    })
  }

  function leave(): void {
    const next = waiting.shift()
    if (next) next()
    else busy -= 1
  }

  async function create(wish: CreateTemplate, caller: TemplateCaller, keyed: Keyed = {}): Promise<Template> {
    const { name, tags, from } = wish
    const shared = { name, tags }
    // A password is in no row, not even as what one could guess it from.
    const hashed = {
      create: { ...wish, from: 'auth' in from ? { ...from, auth: from.auth && withoutPassword(from.auth) } : from },
    }
    if ('image' in from) {
      const reference = checkedReference(from.image)
      caller.checkHost?.(hostOfRegistry(reference))
      const account = accountOf(from.auth, reference.registry)
      if (account && account.registry !== reference.registry) {
        throw new DeltaError('invalid_request', `The account is one of ${account.registry}`, {
          cause: `from.auth.registry: the image lies at ${reference.registry}`,
        })
      }
      const make = (work: Work) => pull(work, reference, { account })
      const source: TemplateSource = { kind: 'image', reference: referenceText(reference) }
      return first(
        await begin({ ...shared, source, timeoutMs: templateLimits.timeoutMs.default, make }, caller, {
          ...keyed,
          hashed,
        }),
      )
    }
    if ('snapshot' in from) {
      if (!(await disks.isSnapshot(from.snapshot, caller))) {
        throw new DeltaError('snapshot_not_found', `There is no snapshot ${from.snapshot}`)
      }
      const make = (work: Work) => ofSnapshot(work, from.snapshot)
      const source: TemplateSource = { kind: 'snapshot', reference: from.snapshot }
      return first(
        await begin({ ...shared, source, timeoutMs: templateLimits.timeoutMs.default, make }, caller, {
          ...keyed,
          hashed,
        }),
      )
    }
    // A mistake in it is told at once.
    checkedPlan(from.dockerfile, from)
    const make = (work: Work) => build(work, { text: from.dockerfile, archive: undefined, options: from })
    return first(
      await begin({ ...shared, source: { kind: 'dockerfile' }, timeoutMs: from.timeoutMs, make }, caller, {
        ...keyed,
        hashed,
      }),
    )
  }

  function checkedPlan(text: string, { target, args }: Pick<FromDockerfile, 'target' | 'args'>): BuildPlan {
    const plan = planDockerfile(text, { target, buildArgs: args, platform: settings.platform })
    for (const { instructions } of plan.stages) instructions.forEach(checkInstruction)
    return plan
  }

  async function first(record: TemplateRecord): Promise<Template> {
    return (await viewsOf(record.accountId, [record]))[0]!
  }

  /** An OCI archive or what `docker save` makes; resolves when it is here, and unpacked afterwards. */
  async function importArchive(
    { name, tags }: { name: string; tags: readonly string[] },
    body: AsyncIterable<Uint8Array>,
    caller: TemplateCaller,
  ): Promise<Template> {
    const upload = await receive(body, templateLimits.archiveBytes)
    const make = async (work: Work) => {
      try {
        return await importFrom(work, await openArchive(upload.path, settings.platform), 'archive')
      } finally {
        upload.remove()
      }
    }
    return beginWith(
      upload,
      { name, tags, source: { kind: 'archive' }, timeoutMs: templateLimits.timeoutMs.default, make },
      caller,
    )
  }

  /** A Dockerfile with its files, which come as a tar. */
  async function buildArchive(
    {
      name,
      tags,
      dockerfile,
      options,
    }: { name: string; tags: readonly string[]; dockerfile: string; options: Omit<FromDockerfile, 'dockerfile'> },
    body: AsyncIterable<Uint8Array>,
    caller: TemplateCaller,
  ): Promise<Template> {
    const upload = await receive(body, contextLimits.bytes)
    try {
      const context = await openContext(upload.path)
      const text = await context.text(dockerfile.replace(/^(\.\/|\/)+/, ''), dockerfileLimits.bytes)
      if (text === undefined)
        throw new DeltaError('dockerfile_invalid', `There is no ${dockerfile.slice(0, 200)} among the files`)
      checkedPlan(text, options)
      const make = async (work: Work) => {
        try {
          return await build(work, { text, archive: upload.path, options })
        } finally {
          upload.remove()
        }
      }
      return await beginWith(
        upload,
        { name, tags, source: { kind: 'dockerfile' }, timeoutMs: options.timeoutMs, make },
        caller,
      )
    } catch (cause) {
      upload.remove()
      throw cause
    }
  }

  async function beginWith(upload: { remove(): void }, wish: Wish, caller: TemplateCaller): Promise<Template> {
    try {
      return await first(await begin(wish, caller, { hashed: null }))
    } catch (cause) {
      upload.remove()
      throw cause
    }
  }

  async function receive(
    body: AsyncIterable<Uint8Array>,
    limitBytes: number,
  ): Promise<{ path: string; remove(): void }> {
    const folder = join(settings.folder, 'uploads')
    mkdirSync(folder, { recursive: true })
    const path = join(folder, newId('tpl'))
    const drop = () => rmSync(path, { force: true })
    try {
      await space.oneOfFew(() => keepIn(path, space.guarded(body), limitBytes))
      return { path, remove: drop }
    } catch (cause) {
      drop()
      throw cause
    }
  }

  // ── what they are made of ──────────────────────────────────────────────────────────────────────────────────────────────────

  async function pull(
    work: Work,
    reference: ImageReference,
    options: { account: Account | undefined; isOurs?: boolean },
  ): Promise<Made> {
    const image = await openImage(work, reference, options)
    return importFrom(work, image, referenceText(reference))
  }

  /** `isOurs`: of the catalogue, which is not theirs who ask. */
  function openImage(
    { caller, signal, log: buildLog }: Work,
    reference: ImageReference,
    { account, isOurs = false }: { account: Account | undefined; isOurs?: boolean },
  ) {
    if (!isOurs) caller.checkHost?.(hostOfRegistry(reference))
    buildLog.add('step', `Pulling ${referenceText(reference)} for ${settings.platform}`)
    return registry.open(reference, {
      platform: settings.platform,
      account,
      signal,
      onNote: (note) => buildLog.add('note', note),
    })
  }

  async function importFrom(work: Work, image: ImageSource, from: string): Promise<Made> {
    const { record, caller, signal, log: buildLog, diskPrefix } = work
    const options = {
      diskName: `${diskPrefix}.1`,
      holder: record.id,
      caller,
      signal,
      say: (text: string) => buildLog.add('step', text),
    }
    const { snapshotId, config } = await importImage({ disks, driver }, image, options)
    return { snapshotId, config, digest: image.digest, detail: `${from}, ${image.layers.length} layers` }
  }

  async function ofSnapshot({ record, caller, diskPrefix, log: buildLog }: Work, snapshotId: string): Promise<Made> {
    buildLog.add('step', `Keeping snapshot ${snapshotId}`)
    const disk = await disks.open(`${diskPrefix}.1`, { snapshotId }, caller)
    const own = await disks.snapshot(disk, `Template ${record.name}@${record.version}`, caller)
    return { snapshotId: own, config: emptyConfig, digest: null, detail: `snapshot ${snapshotId}` }
  }

  interface Building {
    text: string
    archive: string | undefined
    options: Omit<FromDockerfile, 'dockerfile'>
  }

  async function build(work: Work, { text, archive, options }: Building): Promise<Made> {
    const { record, caller, signal, folder } = work
    const plan = checkedPlan(text, options)
    const context = archive === undefined ? undefined : await openContext(archive)
    let kept = 0
    let keptBytes = 0
    const keep = async (chunks: AsyncIterable<Uint8Array>, limitBytes: number) => {
      kept += 1
      const path = join(folder, `kept-${kept}`)
      // Without a bound on all of them a Dockerfile could fetch a thousand of the largest.
      const size = await keepIn(path, space.guarded(chunks), Math.min(limitBytes, mostKeptBytes - keptBytes))
      keptBytes += size
      return { path, size }
    }
    const account = options.auth && accountOf(options.auth, await firstRegistry(plan, caller))
    let bases = 0
    const built: Built = await buildPlan(
      {
        disks,
        openBox: deps.openBox,
        cache: {
          find: (key) => store.step(record.accountId, key),
          put: (key, snapshotId) => store.putStep(record.accountId, key, { snapshotId, templateId: record.id }),
        },
        resolveBase: (name) => {
          bases += 1
          return baseOf(name, work, { account, diskName: `${work.diskPrefix}.base${bases}` })
        },
        download: (url, downloadSignal) => {
          caller.checkHost?.(bareHost(url.hostname))
          return registry.download(url, { signal: downloadSignal, limitBytes: contextLimits.bytes })
        },
        keep,
        unpack: (item) => unpackArchive(item, keep),
      },
      plan,
      context,
      {
        templateId: record.id,
        diskPrefix: work.diskPrefix,
        caller,
        settings: options,
        noCache: options.noCache,
        signal,
        log: work.log,
      },
    )
    const { run, cached } = built.steps
    return {
      snapshotId: built.snapshotId,
      config: built.config,
      digest: null,
      detail: `Dockerfile, ${run} steps done, ${cached} cached`,
    }
  }

  type NamedBase =
    | { kind: 'scratch' }
    | { kind: 'template'; record: TemplateRecord }
    | { kind: 'machine' }
    | { kind: 'image'; text: string; isCatalogue: boolean }

  /** What FROM means: `scratch`, a template, one of the catalogue, or an image of a registry, in this order. */
  async function namedBase(name: string, { accountId }: TemplateCaller): Promise<NamedBase> {
    if (name === 'scratch') return { kind: 'scratch' }
    const reference = parseTemplateReference(name)
    const record = reference && (await store.find(accountId, reference))
    if (record) return { kind: 'template', record }
    if ((await driver.templates()).some((template) => template.name === name)) return { kind: 'machine' }
    const entry = inCatalogue(name)
    return { kind: 'image', text: entry?.image ?? name, isCatalogue: entry !== undefined }
  }

  /** Of the first FROM that names an image of a registry: what a COPY --from names is never told a password on its own word. */
  async function firstRegistry({ stages }: BuildPlan, caller: TemplateCaller): Promise<string | undefined> {
    for (const { base } of stages) {
      const named = base.kind === 'named' ? await namedBase(base.name, caller) : undefined
      const parsed = named?.kind === 'image' && !named.isCatalogue ? parseReference(named.text) : undefined
      if (parsed?.ok) return parsed.reference.registry
    }
    return undefined
  }

  async function baseOf(
    name: string,
    work: Work,
    { account, diskName }: { account: Account | undefined; diskName: string },
  ): Promise<Base> {
    const { caller } = work
    const named = await namedBase(name, caller)
    if (named.kind === 'scratch') return scratchBase
    if (named.kind === 'template') {
      const { record: own } = named
      if (own.state !== 'ready' || own.snapshotId === null) throw notReady(own)
      return { disk: { snapshotId: own.snapshotId }, config: own.config ?? emptyConfig, identity: own.snapshotId }
    }
    if (named.kind === 'machine') {
      await provideOnMachine(name)
      return { disk: { template: name }, config: emptyConfig, identity: `template:${name}` }
    }
    const image = checkedReference(named.text)
    const source = await openImage(work, image, { account, isOurs: named.isCatalogue })
    // An image that an earlier build unpacked is there still.
    const key = hashOf(`image:${source.digest}`)
    const known = await store.step(caller.accountId, key)
    const identity = `image:${source.digest}`
    if (known !== undefined && (await disks.isSnapshot(known, caller))) {
      work.log.add('note', `${referenceText(image)} is here already`)
      return { disk: { snapshotId: known }, config: configOf(source.document), identity }
    }
    const { record, signal, log: buildLog } = work
    const options = { diskName, holder: record.id, caller, signal, say: (text: string) => buildLog.add('step', text) }
    const { snapshotId, config } = await importImage({ disks, driver }, source, options)
    await store.putStep(record.accountId, key, { snapshotId, templateId: record.id })
    return { disk: { snapshotId }, config, identity }
  }

  // ── those of the machine and of the catalogue ──────────────────────────────────────────────────────────────────────────────

  /** Resolves when it is ready. Whoever asks while it is being built waits for the same build. */
  async function provide(name: string, caller: TemplateCaller): Promise<Template> {
    const machine = await provideOnMachine(name)
    if (machine) return machineView(machine)
    const own = await store.find(caller.accountId, { kind: 'latest', name })
    if (own?.state === 'ready') return (await viewsOf(caller.accountId, [own]))[0]!
    const record = own?.state === 'building' ? own : await beginCatalogue(name, caller)
    await running.get(record.id)?.done
    const after = await recordOf(record.id, caller)
    if (after.state === 'ready') return (await viewsOf(caller.accountId, [after]))[0]!
    const { failure } = after
    throw new DeltaError('template_build_failed', `Template ${name} could not be made`, {
      cause: failure ? after.detail : `it is ${after.state}`,
    })
  }

  const beginning = new Map<string, Promise<TemplateRecord>>()

  function beginCatalogue(name: string, caller: TemplateCaller): Promise<TemplateRecord> {
    const entry = inCatalogue(name)
    if (!entry) throw notFound(name)
    const key = `${caller.accountId} ${name}`
    const known = beginning.get(key)
    if (known) return known
    const reference = checkedReference(entry.image)
    const wish: Wish = {
      name,
      tags: [],
      source: { kind: 'image', reference: referenceText(reference) },
      timeoutMs: templateLimits.timeoutMs.default,
      make: (work) => pull(work, reference, { account: undefined, isOurs: true }),
    }
    const started = begin(wish, caller, { hashed: null }).finally(() => beginning.delete(key))
    beginning.set(key, started)
    return started
  }

  async function provideOnMachine(name: string): Promise<TemplateStatus | undefined> {
    const find = async () => (await driver.templates()).find((template) => template.name === name && name !== 'scratch')
    const found = await find()
    if (!found || found.state === 'ready') return found
    let work = onMachine.get(name)
    if (!work) {
      log.info('template_build_started', { name })
      work = driver.buildTemplate(name).finally(() => {
        onMachine.delete(name)
        // A build that failed may have changed it, too.
        deps.onBuilt?.(name)
      })
      onMachine.set(name, work)
    }
    await work
    const built = await find()
    if (built?.state === 'ready') return built
    throw new DeltaError('template_build_failed', `Template ${name} is ${built?.state} after its build`, {
      cause: built?.detail,
    })
  }

  // ── using and ending them ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** What a sandbox starts from by this name; undefined where the driver itself is to judge it. */
  async function resolve(name: string, caller: TemplateCaller): Promise<ResolvedTemplate | undefined> {
    if (name === 'host' || name === 'debian') return undefined
    if (/^snp_[a-z0-9]{1,40}$/.test(name)) {
      if (await disks.isSnapshot(name, caller)) return { template: name, name, env: {} }
      throw new DeltaError('snapshot_not_found', `There is no snapshot ${name}`)
    }
    const reference = parseTemplateReference(name)
    let record = reference && (await store.find(caller.accountId, reference))
    if (!record && inCatalogue(name)) {
      await provide(name, caller)
      record = await recordOf(name, caller)
    }
    if (!record) throw notFound(name)
    const { snapshotId } = record
    if (record.state !== 'ready' || snapshotId === null) throw notReady(record)
    const { env, workdir, user } = record.config ?? emptyConfig
    const isRoot = /^(|root|0)(:.*)?$/.test(user)
    return {
      template: snapshotId,
      name: `${record.name}@${record.version}`,
      env,
      ...(workdir !== '/' && { cwd: workdir }),
      ...(!isRoot && { user }),
    }
  }

  /** With a name alone all versions; builds of them are canceled. Sandboxes that stand on one go on. */
  async function remove(text: string, caller: TemplateCaller): Promise<void> {
    const reference = parseTemplateReference(text)
    if (!reference) throw notFound(text)
    const records =
      reference.kind === 'latest'
        ? await store.list(caller.accountId, { name: reference.name, limit: templateLimits.versions })
        : [await recordOf(text, caller)]
    if (records.length === 0) throw notFound(text)
    for (const record of records) {
      await cancel(record)
      if (await store.beginRemoval(record.id)) await finishRemoval(record)
    }
  }

  async function cancel({ id }: TemplateRecord): Promise<void> {
    const work = running.get(id)
    work?.abort.abort(new DeltaError('canceled', 'The build was canceled'))
    await work?.done
  }

  /** What cannot go now, because a sandbox or another template stands on it, goes at a later start. */
  async function finishRemoval(record: TemplateRecord): Promise<void> {
    const caller = { accountId: record.accountId }
    try {
      if (record.snapshotId !== null) await disks.unpin(record.snapshotId, record.id)
      await removeDisks(record.id, caller)
      logs.remove(record.id)
      await store.remove(record.id)
    } catch (error) {
      log.info('template_left', { templateId: record.id, error })
    }
  }

  async function removeDisks(templateId: string, caller: TemplateCaller): Promise<void> {
    for (const infix of ['base', '']) {
      for (let number = 1; ; number += 1) {
        const isGone = await disks.remove(`${diskPrefixOf(templateId)}.${infix}${number}`, caller).then(
          () => false,
          (error: unknown) => {
            if (error instanceof DeltaError && error.code === 'workspace_not_found') return true
            throw error
          },
        )
        if (isGone) break
      }
    }
  }

  async function setTag(name: string, tag: string, version: number, caller: TemplateCaller): Promise<Template> {
    const record = await recordOf(`${name}@${version}`, caller)
    if (record.state !== 'ready') throw notReady(record)
    await store.setTag(record, tag)
    return (await viewsOf(caller.accountId, [record]))[0]!
  }

  async function removeTag(name: string, tag: string, { accountId }: TemplateCaller): Promise<void> {
    if (!(await store.removeTag(accountId, name, tag))) throw notFound(`${name}:${tag}`)
  }

  async function cancelBuild(text: string, caller: TemplateCaller): Promise<Template> {
    const record = await recordOf(text, caller)
    await cancel(record)
    return get(record.id, caller)
  }

  /** Lines of the build, those to come included; then how it ended. */
  async function follow(text: string, from: number, caller: TemplateCaller, signal: AbortSignal) {
    const { id } = await recordOf(text, caller)
    const lines = logs.follow(id, from, signal)
    return { id, lines, ended: () => get(id, caller) } satisfies {
      id: string
      lines: AsyncGenerator<LogLine>
      ended: () => Promise<Template>
    }
  }

  /** Builds that were under way are over: their sandboxes end, and what they made is kept for the next try. */
  async function start(): Promise<void> {
    rmSync(join(settings.folder, 'uploads'), { recursive: true, force: true })
    rmSync(join(settings.folder, 'builds'), { recursive: true, force: true })
    for (const record of await store.inState('building')) {
      const message = 'The server was restarted while it was made'
      await store.end(
        {
          ...record,
          state: 'failed',
          detail: message,
          failure: { code: 'shutting_down', message },
          endedAt: clock.now(),
        },
        [],
      )
      await deps
        .endBoxesOf(record.id, { accountId: record.accountId })
        .catch((error: unknown) => log.warn('buildsandbox_left', { templateId: record.id, error }))
    }
    for (const record of await store.inState('deleting')) await finishRemoval(record)
  }

  async function stop(): Promise<void> {
    const stopping = new DeltaError('shutting_down', 'The server was stopped while it was made')
    for (const { abort } of running.values()) abort.abort(stopping)
    await Promise.allSettled([...running.values()].map(({ done }) => done))
  }

  return {
    start,
    stop,
    list,
    get,
    versions,
    create,
    importArchive,
    buildArchive,
    provide,
    resolve,
    remove,
    cancelBuild,
    setTag,
    removeTag,
    follow,
    counts: () => ({ running: busy, waiting: waiting.length }),
  }
}

/** Its length. Bytes beyond the limit are not taken. */
async function keepIn(path: string, chunks: AsyncIterable<Uint8Array>, limitBytes: number): Promise<number> {
  let size = 0
  await pipeline(
    async function* () {
      for await (const chunk of chunks) {
        size += chunk.length
        if (size > limitBytes) {
          throw new DeltaError('body_too_large', `It exceeds ${limitBytes} bytes`, { context: { limitBytes } })
        }
        yield chunk
      }
    },
    createWriteStream(path, { mode: 0o600 }),
  )
  return size
}

function diskPrefixOf(templateId: string): string {
  return `build.${templateId.slice(4)}`
}

function hostOfRegistry({ registry }: ImageReference): string {
  return bareHost(registry.replace(/:[0-9]+$/, ''))
}

/** Literal addresses stand in brackets only beside a port. */
function bareHost(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1')
}

function checkedReference(text: string): ImageReference {
  const parsed = parseReference(text)
  if (parsed.ok) return parsed.reference
  throw new DeltaError('invalid_request', `${text.slice(0, 200)} is no reference to an image`, {
    cause: `image: ${parsed.reason}`,
  })
}

/** Where the caller does not say whose account it is, that of `registry`. */
function accountOf(auth: Auth | undefined, registry: string | undefined): Account | undefined {
  const named = auth?.registry === undefined ? registry : registryOf(auth.registry)
  if (!auth || named === undefined) return undefined
  return { registry: named, username: auth.username, password: auth.password }
}

function withoutPassword({ registry, username }: Auth): Omit<Auth, 'password'> {
  return { registry, username }
}

function notFound(text: string): DeltaError {
  const name = text.slice(0, 100)
  return new DeltaError('template_not_found', `There is no template ${name}`, { context: { name } })
}

function notReady({ id, name, version, state, detail }: TemplateRecord): DeltaError {
  return new DeltaError('template_not_ready', `Template ${name}@${version} is ${state}`, {
    ...(detail !== '' && { cause: detail }),
    context: { templateId: id, state },
  })
}

function machineView({ name, state, detail }: TemplateStatus): Template {
  return { ...absent, name, state, detail, source: { kind: 'machine' } }
}

function catalogueView({ name, image, about }: { name: string; image: string; about: string }): Template {
  return { ...absent, name, state: 'missing', detail: about, source: { kind: 'image', reference: image } }
}

const absent = {
  id: null,
  version: null,
  tags: [],
  digest: null,
  snapshotId: null,
  config: null,
  createdAt: null,
  endedAt: null,
}

function viewOf(record: TemplateRecord, tags: string[]): Template {
  const { id, name, version, source, detail, digest, snapshotId, config, createdAt, endedAt } = record
  const state = record.state === 'deleting' ? 'missing' : record.state
  const times = {
    createdAt: new Date(createdAt).toISOString(),
    endedAt: endedAt === null ? null : new Date(endedAt).toISOString(),
  }
  return { id, name, version, tags, state, source, detail, digest, snapshotId, config, ...times }
}

function hashOf(value: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(value) ?? '')
    .digest('hex')
}
