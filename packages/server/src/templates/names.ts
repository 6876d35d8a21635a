/** How a template is named: by its id, or by its name, alone or with a tag or a version. */
export type TemplateReference =
  | { kind: 'id'; id: string }
  | { kind: 'latest'; name: string }
  | { kind: 'tag'; name: string; tag: string }
  | { kind: 'version'; name: string; version: number }

export const namePattern = '[a-z0-9][a-z0-9._-]{0,63}'
export const tagPattern = '[A-Za-z0-9_][A-Za-z0-9._-]{0,63}'
const form = new RegExp(`^(${namePattern})(?::(${tagPattern})|@([1-9][0-9]{0,8}))?$`)

/** The tag that every version becomes when it is ready, and that a name alone means. */
export const latestTag = 'latest'

export function parseTemplateReference(text: string): TemplateReference | undefined {
  if (/^tpl_[a-z0-9]{1,40}$/.test(text)) return { kind: 'id', id: text }
  const [, name, tag, version] = form.exec(text) ?? []
  if (name === undefined) return undefined
  if (tag !== undefined) return { kind: 'tag', name, tag }
  if (version !== undefined) return { kind: 'version', name, version: Number(version) }
  return { kind: 'latest', name }
}

/** Names that mean something else already. */
export function isReservedName(name: string): boolean {
  return ['host', 'debian', 'scratch', 'import', 'builds'].includes(name) || /^(tpl|snp|wsp|sbx)_/.test(name)
}
