import type { ApprovalInfo, ApprovalState, Delta, TokenRequestInfo } from '@delta-agents/sdk'
import { type Command, type CommandOptions, Option } from 'commander'
import { createAsk } from './ask.ts'
import { exitCodes, UsageError } from './failure.ts'
import { parseNumber, table, visible } from './format.ts'
import type { Io } from './io.ts'
import { describedRequest, isRequest, willHappen } from './token-requests.ts'

export interface ApprovalCommandsDeps {
  io: Io
  leaf(usage: string, description: string, options?: CommandOptions): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
  exitWith(code: number): void
}

const states = ['pending', 'approved', 'executed', 'failed', 'refused', 'expired', 'canceled']

interface ListFlags {
  state: ApprovalState
  all?: boolean
  kind?: string
}

export function addApprovalCommands({ io, leaf, delta, print, exitWith }: ApprovalCommandsDeps): void {
  leaf('list', 'list what waits for a person, newest first', { isDefault: true })
    .alias('ls')
    // What is no command comes here.
    .allowExcessArguments()
    .addOption(new Option('--state <state>', 'in this state').choices(states).default('pending'))
    .option('--all', 'in every state')
    .option('--kind <kind>', 'only of this kind, such as egress')
    .action(async ({ state, all, kind }: ListFlags, command: Command) => {
      if (command.args.length > 0) throw noCommand(command.args)
      const found: (ApprovalInfo | TokenRequestInfo)[] = []
      const { approvals, tokenRequests } = delta(command)
      const filter = { ...(!all && { state }), ...(kind !== undefined && { kind }) }
      for await (const approval of approvals.list(filter)) found.push(approval)
      // Those that a person was asked about are among the approvals.
      if (!all && state === 'pending' && (kind === undefined || kind === 'tokens')) {
        for await (const { info } of tokenRequests.list({ state: 'pending_main' })) found.push(info)
      }
      const rows = found.map((one) => [one.id, one.state, one.askedBy, one.expiresAt, visible(whatOf(one))])
      const shown = table(['APPROVAL', 'STATE', 'ASKED BY', 'UNTIL', 'WHAT'], rows)
      const isPending = !all && state === 'pending'
      print(command, found, isPending ? pendingOf(shown, rows.length) : shown)
    })

  leaf('show <approval>', 'what exactly will happen').action(async (id: string, _: unknown, command: Command) => {
    const { approvals, tokenRequests } = delta(command)
    if (isRequest(id)) {
      const { info } = await tokenRequests.get(id)
      return print(command, info, describedRequest(info))
    }
    const approval = await approvals.get(id)
    print(command, approval, described(approval))
  })

  leaf('yes <approval>', 'look at it and approve it, which does it')
    .option('--hash <hash>', 'approve what `show` printed with this hash, without asking')
    .option('--tokens <n>', 'of a request for tokens: approve it for so many, without asking', parseNumber)
    .action(async (id: string, { hash, tokens }: { hash?: string; tokens?: number }, command: Command) => {
      const { approvals, tokenRequests } = delta(command)
      if (isRequest(id)) {
        const seen = tokens ?? (await lookAtRequest((await tokenRequests.get(id)).info))
        const after = await tokenRequests.approve({ id, tokens: seen })
        print(command, after, describedRequest(after))
        if (after.failure) exitWith(exitCodes.failed)
        return
      }
      const after = await approvals.approve({ id, actionHash: hash ?? (await lookAt(await approvals.get(id))) })
      print(command, after, described(after))
      if (after.failure) exitWith(exitCodes.failed)
    })

  /** The hash of what somebody saw and said yes to. */
  async function lookAt(approval: ApprovalInfo): Promise<string> {
    await saysYes(described(approval), '--hash')
    return approval.actionHash
  }

  async function lookAtRequest(request: TokenRequestInfo): Promise<number> {
    await saysYes(describedRequest(request), '--tokens')
    return request.tokens
  }

  async function saysYes(shown: string, option: string): Promise<void> {
    if (io.stdin.isTTY !== true) {
      throw new UsageError(
        `Nobody has looked at it: give ${option} as \`delta approve show\` printed it, or use a terminal`,
      )
    }
    io.stderr.write(shown)
    const answer = await createAsk(io)('Approve exactly this? Type yes: ')
    if (answer.trim().toLowerCase() !== 'yes') throw new UsageError('Not approved; it waits on')
  }

  leaf('no <approval> [reason...]', 'refuse it, and say why').action(
    async (id: string, words: string[], _: unknown, command: Command) => {
      const { approvals, tokenRequests } = delta(command)
      const reason = words.length === 0 ? 'Refused' : words.join(' ')
      if (isRequest(id)) {
        const refused = await tokenRequests.refuse(id, reason)
        return print(command, refused, describedRequest(refused))
      }
      const after = await approvals.refuse(id, reason)
      print(command, after, described(after))
    },
  )

  leaf('cancel <approval>', 'take back what you asked for').action(async (id: string, _: unknown, command: Command) => {
    const { approvals, tokenRequests } = delta(command)
    if (isRequest(id)) {
      const canceled = await tokenRequests.cancel(id)
      return print(command, canceled, describedRequest(canceled))
    }
    const after = await approvals.cancel(id)
    print(command, after, described(after))
  })
}

function pendingOf(shown: string, count: number): string {
  if (count === 0) return 'Nothing waits for a decision.\n'
  return `${shown}\nLook at one and decide: \`delta approve yes APPROVAL\`, or \`delta approve no APPROVAL [reason]\`.\n`
}

function noCommand([first = '', ...others]: string[]): UsageError {
  const isId = others.length === 0 && /^(apr|trq)_/.test(first)
  if (isId) return new UsageError(`Say what to do with it: \`delta approve show ${first}\`, or yes, no, cancel`)
  return new UsageError(`'${first}' is no command of \`delta approve\`: see \`delta approve --help\``)
}

function whatOf(one: ApprovalInfo | TokenRequestInfo): string {
  return 'description' in one ? one.description : willHappen(one)
}

export function described(approval: ApprovalInfo): string {
  const { failure, decidedBy, decidedAt, refusal } = approval
  const rows: (readonly [string, string])[] = [
    ['id', approval.id],
    ['state', approval.state],
    ['what', visible(approval.description)],
    ['as data', visible(JSON.stringify(approval.action))],
    ['hash', approval.actionHash],
    ['asked by', visible([approval.askedBy, ...approval.askedThrough.toReversed()].join(', of '))],
    ['their reason', visible(approval.reason)],
    ['until', approval.expiresAt],
  ]
  if (decidedBy !== null) rows.push(['decided by', `${decidedBy}, ${decidedAt}`])
  if (refusal !== null) rows.push(['refused because', visible(refusal)])
  if (failure !== null) rows.push(['failed', visible(`${failure.code}: ${failure.message}`)])
  return rows.map(([label, value]) => `${label.padEnd(20)} ${value}\n`).join('')
}
