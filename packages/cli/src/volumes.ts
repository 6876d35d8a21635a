import type { Delta, VolumeInfo, VolumeMount } from '@delta-agents/sdk'
import type { Command } from 'commander'
import { UsageError } from './failure.ts'
import { parseNumber, table } from './format.ts'

export interface VolumeCommandsDeps {
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

export function addVolumeCommands({ leaf, delta, print }: VolumeCommandsDeps): void {
  leaf('create <name>', 'make a folder that sandboxes can share')
    .option('--disk <MB>', 'most it may hold (default: 4096)', parseNumber)
    .action(async (name: string, flags: { disk?: number }, command: Command) => {
      const volume = await delta(command).volumes.create({
        name,
        ...(flags.disk === undefined ? {} : { diskMb: flags.disk }),
      })
      print(command, volume, `${volume.id}\n`)
    })

  leaf('list', 'list volumes and the sandboxes that have them')
    .alias('ls')
    .action(async (_: unknown, command: Command) => {
      const volumes = await delta(command).volumes.list()
      const rows = volumes.map(({ id, name, diskMb, sandboxIds }) => [id, name, `${diskMb}`, sandboxIds.join(' ')])
      print(command, volumes, table(['VOLUME', 'NAME', 'DISK MB', 'SANDBOXES'], rows))
    })

  leaf('get <volume>', 'show one, by id or name').action(async (id: string, _: unknown, command: Command) => {
    const volume = await delta(command).volumes.get(id)
    print(command, volume, describeVolume(volume))
  })

  leaf('remove <volume>', 'remove a volume and all it holds')
    .alias('rm')
    .action(async (volume: string, _: unknown, command: Command) => {
      await delta(command).volumes.remove(volume)
      print(command, { volume, removed: true }, `${volume} removed\n`)
    })
}

function describeVolume({ id, name, diskMb, createdAt, sandboxIds }: VolumeInfo): string {
  const rows = [
    ['id', id],
    ['name', name],
    ['disk', `${diskMb} MB`],
    ['sandboxes', sandboxIds.length === 0 ? 'none' : sandboxIds.join(' ')],
    ['created', createdAt],
  ]
  return rows.map(([label, value]) => `${label!.padEnd(20)} ${value}\n`).join('')
}

/** Reads NAME:/path and NAME:/path:ro; may be repeated. */
export function parseMount(text: string, before: VolumeMount[] = []): VolumeMount[] {
  const [, volume, path, mode] = /^([^:]+):(\/[^:]*)(?::(ro|rw))?$/.exec(text) ?? []
  if (volume === undefined || path === undefined) {
    throw new UsageError(`'${text}' is not a volume. Write NAME:/path, or NAME:/path:ro to only read it`)
  }
  return [...before, { volume, path, readOnly: mode === 'ro' }]
}
