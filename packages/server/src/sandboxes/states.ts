/**
 * The life of a sandbox as data. Every change of state anywhere goes through `mayMove`, so what is not in this table cannot happen.
 *
 *   creating → running ⇄ paused      running, paused → stopping → stopped → starting → running
 *   creating → failed                starting → stopped (the start failed, the disk is kept for another try)
 *   any → killed
 */
export const sandboxStates = [
  'creating',
  'running',
  'paused',
  'stopping',
  'stopped',
  'starting',
  'killed',
  'failed',
] as const
export type SandboxState = (typeof sandboxStates)[number]

/** Why a sandbox changed its state. Clients show it; the detail beside it says more where an error caused it. */
export const transitionReasons = {
  requested: 'Somebody asked for a new sandbox',
  created: 'The box was made and its guest answered',
  create_failed: 'The box could not be made; nothing is left of it',
  server_restarted: 'The server went away in the middle of the change',
  pause_requested: 'Somebody paused it',
  resume_requested: 'Somebody resumed it',
  auto_resumed: 'A command or file access needed it',
  stop_requested: 'Somebody stopped it',
  start_requested: 'Somebody started it',
  started: 'The box was made again on its disk',
  start_failed: 'The box could not be made again; its disk is kept',
  timeout: 'Its time ran out',
  idle: 'Nobody asked anything of it for its idle time',
  guest_died: 'Its first process ended by itself',
  out_of_memory: 'Its first process was killed for memory',
  locks_exceeded: 'It was ended because it held more locks of files than any program needs',
  box_lost: 'Its box was gone when the server came back (the machine restarted, or the runtime was killed)',
  disk_lost: 'Its disk was gone when the server came back',
  server_stopped: 'The server was stopped together with its sandboxes',
  found_frozen: 'The box was found frozen when the server came back',
  found_running: 'The box was found running when the server came back',
  out_of_tokens: 'Nobody could pay for more of its time; its disk is kept',
  plan_limit: 'The sandbox hours of the plan are used up for this month; its disk is kept',
  kill_requested: 'Somebody killed it',
} as const
export type TransitionReason = keyof typeof transitionReasons

/** What to do about a reason that does not say it by itself. */
export const transitionDetails: Partial<Record<TransitionReason, string>> = {
  locks_exceeded:
    'Its programs held more than 16,384 locks of files (flock, fcntl) at once, which the host keeps in memory that it counts for nobody. ' +
    'Its disk is kept: start it again, and let the program lock fewer files or ranges, or a whole file at once.',
  out_of_tokens:
    'What was held for it was nearly used up, and no more could be held. Its processes have ended and its disk is kept as it was. ' +
    'Give tokens to the agent it belongs to, or to the account, and start it again; a command or file access does that too.',
  plan_limit:
    'The plan of the account has no more sandbox hours this month. Its disk is kept: start it again next month, or with a larger plan.',
}

type Moves = Partial<Record<SandboxState, readonly TransitionReason[]>>

/** What leads to a stop stays the reason of the stopped sandbox, since that is what whoever finds it so asks. */
const stops = [
  'stop_requested',
  'timeout',
  'idle',
  'guest_died',
  'out_of_memory',
  'locks_exceeded',
  'box_lost',
  'server_stopped',
  'out_of_tokens',
  'plan_limit',
] as const
const ended = ['kill_requested', 'timeout', 'disk_lost'] as const

export const transitions: Record<SandboxState, Moves> = {
  creating: {
    running: ['created'],
    failed: ['create_failed', 'server_restarted'],
    killed: ['kill_requested'],
  },
  running: {
    paused: ['pause_requested', 'timeout', 'found_frozen'],
    stopping: stops,
    killed: ended,
  },
  paused: {
    running: ['resume_requested', 'auto_resumed', 'found_running'],
    stopping: stops.filter((reason) => reason !== 'timeout' && reason !== 'idle'),
    killed: ended,
  },
  stopping: {
    stopped: [...stops, 'server_restarted'],
    killed: ended,
  },
  stopped: {
    starting: ['start_requested', 'auto_resumed'],
    killed: ended,
  },
  starting: {
    running: ['started', 'server_restarted'],
    stopped: ['start_failed', 'server_restarted'],
    killed: ended,
  },
  failed: { killed: ['kill_requested'] },
  killed: {},
}

export function mayMove(from: SandboxState, to: SandboxState, reason: TransitionReason): boolean {
  return transitions[from][to]?.includes(reason) ?? false
}

/** Nothing of it exists any more and nothing brings it back. */
export function isOver(state: SandboxState): boolean {
  return state === 'killed' || state === 'failed'
}

/** It has, or may have, a box: it counts towards the most sandboxes at once. */
export function holdsBox(state: SandboxState): boolean {
  return !isOver(state) && state !== 'stopped'
}

export type SandboxAction = 'pause' | 'resume' | 'stop' | 'start' | 'kill' | 'open'

/** `done`: it is so already. `refuse`: not from here. Everything else names what to do. */
export type Step = 'done' | 'refuse' | 'pause' | 'resume' | 'stop' | 'start' | 'kill' | 'settle'

/**
 * What an action means in each state. The states in between (`creating`, `stopping`, `starting`) are seen only when an earlier attempt was
 * cut short, since operations on one sandbox wait for each other: `settle` finishes that one first, then the action is asked again.
 */
export const steps: Record<SandboxAction, Record<SandboxState, Step>> = {
  pause: row('settle', 'pause', 'done', 'settle', 'refuse', 'settle', 'refuse', 'refuse'),
  resume: row('settle', 'done', 'resume', 'settle', 'refuse', 'settle', 'refuse', 'refuse'),
  stop: row('settle', 'stop', 'stop', 'settle', 'done', 'settle', 'refuse', 'refuse'),
  start: row('settle', 'done', 'refuse', 'settle', 'start', 'settle', 'refuse', 'refuse'),
  open: row('settle', 'done', 'resume', 'settle', 'start', 'settle', 'refuse', 'refuse'),
  kill: row('kill', 'kill', 'kill', 'kill', 'kill', 'kill', 'done', 'kill'),
}

/** In the order of `sandboxStates`. */
function row(...each: [Step, Step, Step, Step, Step, Step, Step, Step]): Record<SandboxState, Step> {
  return Object.fromEntries(sandboxStates.map((state, index) => [state, each[index]])) as Record<SandboxState, Step>
}
