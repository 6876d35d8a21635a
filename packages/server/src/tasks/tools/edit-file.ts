import { isUtf8 } from 'node:buffer'
import { Readable } from 'node:stream'
import { z } from 'zod'
import { DeltaError } from '../../kernel/errors.ts'
import type { Files } from '../../sandboxes/files/service.ts'
import { shortened, shownCount } from './bounded.ts'
import { unknownText } from './command.ts'
import { computerFor } from './guard.ts'
import { nearest } from './nearest.ts'
import { absolute, pathSchema, workFolder } from './paths.ts'
import { done, failed, type Tool } from './tool.ts'

export interface EditFileDeps {
  files: Pick<Files, 'read' | 'write'>
  /** @default workFolder */
  folder?: string | undefined
}

const editLimits = {
  fileBytes: 4 * 1024 * 1024,
  textChars: 1_000_000,
  /** Lines that are compared with the one that was not found. */
  comparedLines: 20_000,
  comparedChars: 200,
  namedLines: 10,
  /** Places at which a change may have been made. */
  tried: 20,
} as const

const input = z
  .strictObject({
    path: pathSchema,
    oldText: z
      .string()
      .min(1)
      .max(editLimits.textChars)
      .describe('Exactly as it stands in the file, with spaces and line ends, without line numbers'),
    newText: z.string().max(editLimits.textChars),
    all: z.boolean().default(false).describe('Replace it wherever it stands; otherwise it must stand there once'),
  })
  .refine(({ oldText, newText }) => oldText !== newText, { message: 'oldText and newText are the same' })
type Input = z.output<typeof input>

export function createEditFile({ files, folder = workFolder }: EditFileDeps): Tool<Input> {
  return {
    name: 'edit_file',
    description:
      'Change a part of a text file: oldText, which must stand in it exactly once, becomes newText. Take enough lines around to make it unique, or set all. Read the file first.',
    input,
    needs: ['read:files', 'write:files'],
    mode: 'auto',
    isParallel: false,
    changesFiles: true,
    // It finds out by what the file holds.
    afterCrash: 'again',
    async run({ path, oldText, newText, all }, context) {
      const sandboxId = await computerFor(context, 'write:files')
      const at = absolute(path, folder)
      const place = { sandboxId, caller: context.caller, path: at }
      const read = await readWhole(files, place)
      if (typeof read === 'string') return failed(read)
      const edit = editOf(read.text, { oldText, newText, all, begun: context.begun })
      if (edit.kind === 'refused') {
        // It may name lines of the file.
        if (await context.isForeign()) context.readUntrusted('your computer')
        return failed(edit.reason)
      }
      if (edit.kind === 'done_before') return done(`${at} holds the new text: the change was made.`)
      const bytes = Buffer.from(edit.text)
      try {
        const wish = { parents: false, overwrite: true, ifMatch: read.etag }
        await files.write(place, Readable.from(bytes.length === 0 ? [] : [bytes]), wish)
      } catch (error) {
        if (!(error instanceof DeltaError) || error.code !== 'precondition_failed') throw error
        return failed(`${at} was changed by something else meanwhile, so nothing was done: read it again.`)
      }
      const { lines } = edit
      const places = lines.length === 1 ? 'line' : `${lines.length} places, lines`
      return done(`Changed ${at} at ${places} ${shownLines(lines)}.`)
    },
  }
}

async function readWhole(
  files: EditFileDeps['files'],
  place: Parameters<Files['read']>[0],
): Promise<{ text: string; etag: string } | string> {
  const answer = await files.read(place, { withBody: true })
  if (answer.kind === 'unchanged' || !answer.body) return 'The file could not be read.'
  const tooLong = `The file is longer than ${shownCount(editLimits.fileBytes)} bytes: change it with run_terminal, for instance with sed or a script.`
  try {
    if (answer.entry.size > editLimits.fileBytes) return tooLong
    const chunks: Buffer[] = []
    let length = 0
    for await (const chunk of answer.body) {
      length += chunk.length
      if (length > editLimits.fileBytes) return tooLong
      chunks.push(chunk)
    }
    const bytes = Buffer.concat(chunks)
    // What is no UTF-8 would not come back as it was.
    if (!isUtf8(bytes)) return 'The file is no UTF-8 text: change it with run_terminal.'
    return { text: bytes.toString(), etag: answer.entry.etag }
  } finally {
    await answer.body.return?.()
  }
}

export type Edit =
  | { kind: 'changed'; text: string; lines: number[] }
  | { kind: 'done_before' }
  | { kind: 'refused'; reason: string }

export interface EditWish {
  oldText: string
  newText: string
  all: boolean
  /** It may have been made already, before a crash. */
  begun: boolean
}

/** What becomes of a file's text. */
export function editOf(text: string, { oldText, newText, all, begun }: EditWish): Edit {
  const found = occurrences(text, oldText)
  if (begun) {
    const before = madeBefore(text, { oldText, newText, all, found })
    if (before === 'yes') return { kind: 'done_before' }
    if (before === 'perhaps') return { kind: 'refused', reason: `${unknownText}: read the file` }
  }
  if (found.length === 0) return { kind: 'refused', reason: notFound(text, oldText) }
  const lines = lineNumbers(text, found)
  if (found.length > 1 && !all) {
    return {
      kind: 'refused',
      reason: `oldText stands ${found.length} times in the file, at lines ${shownLines(lines)}, so nothing was changed. Take more of the lines around the one you mean, or set all: true for every one.`,
    }
  }
  return { kind: 'changed', text: text.split(oldText).join(newText), lines }
}

/** Whether the change has been made to this text. Where that can not be told, the model looks: made twice is worse than asked once. */
function madeBefore(
  text: string,
  { oldText, newText, all, found }: Pick<EditWish, 'oldText' | 'newText' | 'all'> & { found: readonly number[] },
): 'yes' | 'no' | 'perhaps' {
  if (newText === '') return 'perhaps'
  // Wherever it was made, the new text stands there; and without the old one it could not be made.
  const made = text.indexOf(newText)
  if (made === -1) return 'no'
  if (found.length === 0) return 'yes'
  if (all) return 'perhaps'
  let tried = 0
  for (let at = made; at !== -1; at = text.indexOf(newText, at + 1)) {
    tried += 1
    if (tried > editLimits.tried) return 'perhaps'
    // The text from which it would have come. Had the old text not stood there just once, it would have been refused.
    const before = text.slice(0, at) + oldText + text.slice(at + newText.length)
    if (occurrences(before, oldText).length === 1) return 'perhaps'
  }
  return 'no'
}

function occurrences(text: string, wanted: string): number[] {
  const found: number[] = []
  for (let at = text.indexOf(wanted); at !== -1; at = text.indexOf(wanted, at + wanted.length)) found.push(at)
  return found
}

function lineNumbers(text: string, offsets: readonly number[]): number[] {
  let line = 1
  let from = 0
  return offsets.map((offset) => {
    for (let at = text.indexOf('\n', from); at !== -1 && at < offset; at = text.indexOf('\n', at + 1)) {
      line += 1
      from = at + 1
    }
    return line
  })
}

function shownLines(lines: readonly number[]): string {
  const more = lines.length - editLimits.namedLines
  return lines.slice(0, editLimits.namedLines).join(', ') + (more > 0 ? ` and ${more} more` : '')
}

function notFound(text: string, oldText: string): string {
  const head = 'oldText does not stand in the file, so nothing was changed.'
  if (text.includes('\r\n') && occurrences(text, oldText.replaceAll(/\r?\n/g, '\r\n')).length > 0) {
    return `${head} The file's lines end with \\r\\n: write them so in oldText and newText.`
  }
  const first = oldText.split('\n').find((line) => line.trim() !== '') ?? oldText
  const wanted = first.trim().slice(0, editLimits.comparedChars)
  const lines = text.split('\n', editLimits.comparedLines).map((line, index) => ({ line, number: index + 1 }))
  const alike = nearest(wanted, lines, {
    textOf: ({ line }) => line.trim().slice(0, editLimits.comparedChars),
    most: 3,
    least: 0.5,
  })
  if (alike.length === 0) return `${head} No line is like its first one: read the file.`
  const shown = alike.map(({ line, number }) => `${String(number).padStart(6)}\t${shortened(line, 200)}`)
  return `${head} The lines most like its first one are:\n${shown.join('\n')}`
}
