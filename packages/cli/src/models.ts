import type { Delta, ModelInfo, ModelKeyProvider, ModelList } from '@delta-agents/sdk'
import type { Command, CommandOptions } from 'commander'
import { createAsk } from './ask.ts'
import { UsageError } from './failure.ts'
import { table, visible } from './format.ts'
import type { Io } from './io.ts'

export interface ModelCommandsDeps {
  io: Io
  leaf(usage: string, description: string, options?: CommandOptions): Command
  /** A command of `delta models key`. */
  keyLeaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

const providers: ModelKeyProvider[] = ['anthropic', 'google']

export function addModelCommands({ io, leaf, keyLeaf, delta, print }: ModelCommandsDeps): void {
  leaf('list', 'models, what they cost, and why some can not be used now', { isDefault: true })
    .alias('ls')
    .option('--all', 'also those that can not be used now')
    .action(async ({ all }: { all?: boolean }, command: Command) => {
      const found = await delta(command).models.list()
      const shown = all ? found.data : found.data.filter(({ usable }) => usable)
      print(command, found, modelTable(shown) + notes(found, all === true))
    })

  keyLeaf('list', 'the account’s own keys of providers')
    .alias('ls')
    .action(async (_: unknown, command: Command) => {
      const found = await delta(command).models.keys.list()
      const rows = found.map(({ provider, last, setBy, setAt }) => [provider, `…${last}`, setBy, setAt])
      print(command, found, table(['PROVIDER', 'KEY', 'SET BY', 'SET AT'], rows))
    })

  keyLeaf('set <provider>', 'pay a provider yourself: anthropic or google; the key is typed, or read from stdin')
    // What is too much is very likely a key: it is not said again.
    .allowExcessArguments()
    .action(async (name: string, _: unknown, command: Command) => {
      const provider = providerOf(name)
      if (command.args.length > 1) {
        throw new UsageError(
          'The key does not belong on the command line, which others can see: type it, or give it on stdin',
        )
      }
      const apiKey = (await createAsk(io)(`Key of ${provider}: `, { secret: true })).trim()
      if (apiKey === '') throw new UsageError('There is no key')
      const set = await delta(command).models.keys.set(provider, apiKey)
      print(command, set, `The key of ${provider} that ends with ${visible(set.last)} is used from now on.\n`)
    })

  keyLeaf('remove <provider>', 'forget it; the operator’s is used, where there is one')
    .alias('rm')
    .action(async (name: string, _: unknown, command: Command) => {
      const provider = providerOf(name)
      await delta(command).models.keys.remove(provider)
      print(command, { provider, removed: true }, `The key of ${provider} is forgotten.\n`)
    })
}

function providerOf(name: string): ModelKeyProvider {
  const provider = providers.find((one) => one === name)
  // Somebody may have written the key where the provider belongs: it is not said again.
  if (!provider) throw new UsageError(`Keys are set for ${providers.join(' or ')}: \`delta models key set anthropic\``)
  return provider
}

function modelTable(models: readonly ModelInfo[]): string {
  const rows = models.map(({ id, usable, ownKey, prices, contextTokens, reason }) => [
    visible(id),
    usable ? (ownKey ? 'own key' : 'yes') : 'no',
    prices ? String(prices.input) : '-',
    prices ? String(prices.output) : '-',
    contextTokens === null ? '-' : String(contextTokens),
    usable ? '' : visible(reason?.message ?? ''),
  ])
  return table(['MODEL', 'USABLE', 'INPUT', 'OUTPUT', 'CONTEXT', ''], rows)
}

/** Prices are of a million. */
function notes({ data, providers: all, default: preset }: ModelList, isAll: boolean): string {
  const lines = ['', 'Input and output: tokens of DELTA for 1,000,000 of the model’s.']
  lines.push(
    `Of tasks that name none: ${preset === null ? 'none, DELTA_MODEL of the server is not set' : visible(preset)}.`,
  )
  for (const { usable, reason } of all) if (!usable && reason) lines.push(`${visible(reason.message)}.`)
  const hidden = data.filter(({ usable }) => !usable).length
  if (hidden > 0 && !isAll) lines.push(`${hidden} more can not be used now: --all`)
  return `${lines.join('\n')}\n`
}
