import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { type Attack, type Canary, type Ground } from '../attack.ts'
import { eventually, read, uidsOf } from '../host.ts'
import { type OciConfig, takeAway } from '../weak-box.ts'

/** Sees the host's processes, as the host's root. */
function amongHostProcesses(config: OciConfig): void {
  takeAway.namespace(config, 'pid')
  takeAway.userNamespace(config)
  takeAway.capabilityBounds(config)
}

const asHostRoot = (config: OciConfig): void => {
  takeAway.userNamespace(config)
  takeAway.capabilityBounds(config)
}

/** A process of the host that holds a secret in its memory, its arguments and its environment. */
async function victim(
  ground: Ground,
): Promise<{ child: ChildProcess; secret: string; address: string; said: () => string }> {
  const secret = `secret-${randomUUID()}`
  const child = spawn(ground.tool, ['host-victim', secret], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { CANARY: secret },
  })
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
  await once(child.stdout, 'data')
  return { child, secret, address: said.trim(), said: () => said }
}

const gone = ({ exitCode, signalCode }: ChildProcess) => exitCode !== null || signalCode !== null

/** A number of the host's, put back afterwards. */
function number({
  get,
  set,
  change,
}: {
  get: () => string
  set: (value: string) => void
  change: (was: string) => string
}): Canary {
  const was = get()
  return {
    args: [change(was)],
    fell: () => (get() === was ? undefined : `it is ${get()} instead of ${was}`),
    end: () => get() === was || set(was),
  }
}

const domain = '/proc/sys/kernel/domainname'
const restart = '/proc/sys/kernel/ctrl-alt-del'

export const processAttacks: Attack[] = [
  {
    name: 'process-kill',
    promise: 1,
    tries: 'end a process of the host by kill, tgkill, a queued signal and a pidfd',
    async place(ground) {
      const { child } = await victim(ground)
      return {
        args: [String(child.pid)],
        fell: async () =>
          (await eventually(ground.isWeak ? 2 : 0.1, () => gone(child))) ? 'the process was killed' : undefined,
        end: () => void child.kill('SIGKILL'),
      }
    },
    weak: { without: 'pid and user namespaces', edit: amongHostProcesses },
  },
  {
    name: 'process-trace',
    promise: 1,
    tries: 'read and write the memory of a process of the host (process_vm, /proc/PID/mem, ptrace)',
    async place(ground) {
      const { child, secret, address, said } = await victim(ground)
      return {
        args: [String(child.pid), address, 'changed by the attack'],
        fell: async (attempt) => {
          if (await eventually(ground.isWeak ? 2 : 0.1, () => said().includes('changed')))
            return 'its memory was written'
          return attempt.said.includes(secret) ? 'its memory was read' : undefined
        },
        end: () => void child.kill('SIGKILL'),
      }
    },
    weak: { without: 'pid and user namespaces', edit: amongHostProcesses },
  },
  {
    name: 'process-list',
    promise: 1,
    tries: "see the host's processes, their arguments and variables",
    async place(ground) {
      const { child, secret } = await victim(ground)
      return {
        args: [],
        fell: ({ said }) => (said.includes(secret) ? 'a process of the host was seen' : undefined),
        end: () => void child.kill('SIGKILL'),
      }
    },
    weak: { without: 'pid and user namespaces', edit: amongHostProcesses },
  },
  {
    name: 'uid',
    promise: 1,
    tries: 'become a uid of the host by setresuid, as any of eight',
    place: ({ runtime }) => ({
      args: [],
      fell({ pids }) {
        const uids = pids().flatMap(uidsOf)
        // gVisor's own processes are the host's nobody, and what runs inside is no process of the host.
        const host = uids.find(
          (uid) => (uid < 65_536 && !(runtime === 'runsc' && uid === 65_534)) || uid === 0x7fff_ffff,
        )
        return host === undefined ? undefined : `a process inside has the host's uid ${host}`
      },
    }),
    weak: { without: 'a user namespace', edit: takeAway.userNamespace },
  },
  {
    name: 'clock',
    promise: 1,
    tries: "change the machine's clock state",
    place: ({ tool }) => {
      const clock = (...args: string[]) => execFileSync(tool, ['host-clock', ...args], { encoding: 'utf8' })
      return number({
        get: () => clock(),
        set: (value) => void clock(value),
        change: (was) => (was === '1000' ? '1001' : '1000'),
      })
    },
    weak: {
      without: 'user namespace, bounded capabilities, seccomp',
      edit(config) {
        asHostRoot(config)
        takeAway.seccomp(config)
      },
    },
  },
  {
    name: 'domain',
    promise: 1,
    tries: "change the machine's names",
    place: () =>
      number({
        get: () => read(domain).trim(),
        set: (value) => writeFileSync(domain, value),
        change: () => `delta-attack`,
      }),
    weak: {
      without: 'user and uts namespaces, seccomp',
      edit(config) {
        asHostRoot(config)
        takeAway.seccomp(config)
        takeAway.namespace(config, 'uts')
        // Runtimes refuse a host name where there is no namespace for it.
        delete (config as { hostname?: string }).hostname
      },
    },
  },
  {
    name: 'reboot',
    promise: 2,
    tries: 'call reboot: what Ctrl-Alt-Del does',
    place: () =>
      number({
        get: () => read(restart).trim(),
        set: (value) => writeFileSync(restart, value),
        change: (was) => (was === '0' ? '1' : '0'),
      }),
    weak: {
      without: 'user and pid namespaces, seccomp',
      edit(config) {
        amongHostProcesses(config)
        takeAway.seccomp(config)
      },
    },
  },
]
