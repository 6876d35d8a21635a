import { isAnyId } from '../../kernel/ids.ts'

/** What stands for a text that is neither an id nor a name: somebody may have put a secret there, and entries are never removed. */
export const notAnId = '(not an id)'

/** Whose paths take a name in the place of an id. */
const named = new Set(['workspaces', 'volumes', 'templates'])
/** Of workspaces, volumes and templates, these also with a tag or a version. */
const nameForm = /^[a-z0-9][a-z0-9._-]{0,63}([:@][A-Za-z0-9_][A-Za-z0-9._-]{0,63})?$/

/** What a request was to, as far as it may be written down: what stands in its path is whatever its sender put there. */
export function targetOf(text: string | undefined, path?: string): string | undefined {
  if (text === undefined || isAnyId(text)) return text
  const kind = path?.split('/')[2]
  return kind !== undefined && named.has(kind) && nameForm.test(text) ? text : notAnId
}
