import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

interface OciConfig {
  process: { args: string[]; terminal?: boolean }
  root: { path: string }
  linux: { namespaces: { type: string; path?: string }[]; cgroupsPath?: string; resources?: object }
}

/**
 * The runtime by itself: a shell that, for each run, mounts a fresh overlay, runs /bin/true with `RUNTIME run` on the very bundle a DELTA box has
 * (user namespace, mappings, seccomp, capabilities, limits), and removes everything again. The shell lives in one private mount
 * namespace where cgroup2 is hidden on hybrid hosts, because crun 1.8 refuses such hosts otherwise; that costs the rival nothing per run.
 */
export async function openRuntimeRival({
  runtime,
  helper,
  lower,
  usr,
  scratch,
}: {
  runtime: string
  helper: string
  lower: string
  usr?: string
  scratch: string
}) {
  const bundle = join(scratch, 'bundle')
  mkdirSync(bundle, { recursive: true })
  const config = boxConfig(helper, runtime)
  config.process.args = ['/bin/true']
  config.process.terminal = false
  config.root.path = join(scratch, 'merged')
  config.linux.resources = {
    memory: { limit: 512 * 1024 * 1024 },
    cpu: { quota: 100_000, period: 100_000 },
    pids: { limit: 512 },
  }
  config.linux.cgroupsPath = `/delta-bench-${process.pid}/rival`
  for (const namespace of config.linux.namespaces) delete namespace.path
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config))
  writeFileSync(join(scratch, 'run.sh'), script({ runtime, scratch, bundle, lower, ...(usr && { usr }) }))
  const shell = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', join(scratch, 'run.sh')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: shell.stdout })[Symbol.asyncIterator]()
  return {
    /** One run, in milliseconds. */
    async run(): Promise<number> {
      const startedAt = performance.now()
      shell.stdin.write('go\n')
      const { value } = await lines.next()
      const ms = performance.now() - startedAt
      if (value !== '0') throw new Error(`${runtime} run of the rival bundle ended with ${String(value)}`)
      return ms
    },
    async close() {
      shell.stdin.end()
      await new Promise((done) => shell.once('close', done))
      for (const controller of readdirSync('/sys/fs/cgroup')) {
        const parent = join('/sys/fs/cgroup', controller, `delta-bench-${process.pid}`)
        if (existsSync(parent)) rmdirSync(parent)
      }
    },
  }
}

function script({
  runtime,
  scratch,
  bundle,
  lower,
  usr,
}: {
  runtime: string
  scratch: string
  bundle: string
  lower: string
  usr?: string
}) {
  const second = usr ? `mount -t overlay overlay -o lowerdir=${usr},upperdir=$S/uu,workdir=$S/uw $S/merged/usr &&` : ''
  const unmountSecond = usr ? 'umount $S/merged/usr;' : ''
  return `S=${scratch}
[ -d /sys/fs/cgroup/unified ] && mount -t tmpfs none /sys/fs/cgroup/unified
mkdir -p $S/merged $S/root
while read -r line; do
  mkdir -p $S/u $S/w $S/uu $S/uw
  mount -t overlay overlay -o lowerdir=${lower},upperdir=$S/u,workdir=$S/w $S/merged && ${second}
  ${runtime} --root $S/root run --bundle ${bundle} rival </dev/null >/dev/null 3>&-
  code=$?
  ${unmountSecond} umount $S/merged
  rm -rf $S/u $S/w $S/uu $S/uw
  echo $code
done
`
}

/** What the helper hands to that runtime for a sandbox, from the helper itself. */
function boxConfig(helper: string, runtime: string): OciConfig {
  return JSON.parse(
    execFileSync(helper, ['config'], { env: { ...process.env, DELTA_RUNTIME: runtime }, encoding: 'utf8' }),
  ) as OciConfig
}
