import { z } from 'zod'
import type { FileEntry } from '../../sandboxes/files/schema.ts'
import type { Files } from '../../sandboxes/files/service.ts'
import { resultChars, shownCount } from './bounded.ts'
import { computerFor } from './guard.ts'
import { fromComputer } from './outside.ts'
import { absolute, pathSchema, workFolder } from './paths.ts'
import { done, type Tool } from './tool.ts'

export interface ListFilesDeps {
  files: Pick<Files, 'list'>
  /** @default workFolder */
  folder?: string | undefined
}

const listed = { max: 1_000, default: 200 } as const

const input = z.strictObject({
  path: pathSchema.default('.').describe('The folder, /workspace by default'),
  depth: z.int().min(1).max(20).default(1).describe('1: its own entries; 2: those of its folders too; and so on'),
  limit: z.int().min(1).max(listed.max).default(listed.default),
  cursor: z.string().max(6_000).optional().describe('What the answer before said to go on with'),
})
type Input = z.output<typeof input>

export function createListFiles({ files, folder = workFolder }: ListFilesDeps): Tool<Input> {
  return {
    name: 'list_files',
    description: 'List a folder: one entry a line, folders with / at the end, files with their size in bytes.',
    input,
    needs: ['read:files'],
    mode: 'auto',
    isParallel: true,
    changesFiles: false,
    afterCrash: 'again',
    async run({ path, depth, limit, cursor }, context) {
      const sandboxId = await computerFor(context, 'read:files')
      const at = absolute(path, folder)
      let wanted: number = limit
      for (;;) {
        const place = { sandboxId, caller: context.caller, path: at }
        const { data, nextCursor } = await files.list(place, { depth, limit: wanted, cursor })
        if (data.length === 0) return done(cursor === undefined ? `${at} is empty.` : 'There are no more.')
        const lines = data.map((entry) => lineOf(entry, at))
        const text = lines.join('\n')
        if (text.length > resultChars && wanted > 1) {
          // A cursor stands behind the last that was asked for: so fewer are asked for, until they can all be told.
          wanted = Math.max(1, Math.floor((wanted * resultChars * 0.9) / text.length))
          continue
        }
        const more = nextCursor === null ? '' : `\n[${shownCount(data.length)} shown; go on with cursor: ${nextCursor}]`
        return done((await fromComputer(text.slice(0, resultChars), context)) + more)
      }
    },
  }
}

function lineOf({ path, type, size, symlinkTarget }: FileEntry, folder: string): string {
  const base = folder.endsWith('/') ? folder : `${folder}/`
  const name = shownName(path.startsWith(base) ? path.slice(base.length) : path)
  if (type === 'directory') return `${name}/`
  if (type === 'symlink') return `${name} -> ${shownName(symlinkTarget ?? '?')}`
  return type === 'file' ? `${name}  ${size}` : `${name}  (${type})`
}

/** One line, whatever it is called. */
function shownName(name: string): string {
  return name.replaceAll(/\p{Cc}/gu, '?')
}
