import { Readable } from 'node:stream'
import { z } from 'zod'
import type { Files } from '../../sandboxes/files/service.ts'
import { shownCount } from './bounded.ts'
import { computerFor } from './guard.ts'
import { absolute, pathSchema, workFolder } from './paths.ts'
import { done, type Tool } from './tool.ts'

export interface WriteFileDeps {
  files: Pick<Files, 'write'>
  /** @default workFolder */
  folder?: string | undefined
}

const contentChars = 2_000_000

const input = z.strictObject({
  path: pathSchema,
  content: z.string().max(contentChars).describe('All that the file will hold'),
})
type Input = z.output<typeof input>

export function createWriteFile({ files, folder = workFolder }: WriteFileDeps): Tool<Input> {
  return {
    name: 'write_file',
    description:
      'Write a text file: makes it and its folders, or replaces all it held. The content is written exactly as given. To change a part of a file use edit_file.',
    input,
    needs: ['write:files'],
    mode: 'auto',
    isParallel: false,
    changesFiles: true,
    // The same content again is the same file.
    afterCrash: 'again',
    async run({ path, content }, context) {
      const sandboxId = await computerFor(context, 'write:files')
      const at = absolute(path, folder)
      const bytes = Buffer.from(content)
      const place = { sandboxId, caller: context.caller, path: at }
      await files.write(place, Readable.from(bytes.length === 0 ? [] : [bytes]), { parents: true, overwrite: true })
      const lines = content.split('\n').length - (content.endsWith('\n') || content === '' ? 1 : 0)
      return done(`Wrote ${at}: ${shownCount(bytes.length)} bytes, ${shownCount(lines)} lines.`)
    },
  }
}
