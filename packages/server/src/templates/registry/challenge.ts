/** What a registry wants to see, by its WWW-Authenticate. */
export type Challenge = { scheme: 'basic' } | { scheme: 'bearer'; realm: string; service?: string; scope?: string }

/** The first challenge that can be met; a token is preferred. Undefined where none can. */
export function parseChallenge(header: string | undefined): Challenge | undefined {
  const challenges = splitChallenges((header ?? '').slice(0, 8_192))
  for (const { scheme, parameters } of challenges) {
    const realm = parameters.get('realm')
    if (scheme !== 'bearer' || realm === undefined) continue
    const service = parameters.get('service')
    const scope = parameters.get('scope')
    return { scheme: 'bearer', realm, ...(service !== undefined && { service }), ...(scope !== undefined && { scope }) }
  }
  return challenges.some(({ scheme }) => scheme === 'basic') ? { scheme: 'basic' } : undefined
}

interface RawChallenge {
  scheme: string
  parameters: Map<string, string>
}

/** `Bearer realm="…",service="…", Basic realm="…"`: a word without `=` begins the next one. */
function splitChallenges(header: string): RawChallenge[] {
  const found: RawChallenge[] = []
  const part =
    /\s*,?\s*(?:([A-Za-z0-9!#$%&'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([A-Za-z][A-Za-z0-9-]*)(?=\s|,|$))/y
  while (part.lastIndex < header.length) {
    const match = part.exec(header)
    if (!match || match[0] === '') break
    const [, name, quoted, bare, scheme] = match
    if (scheme !== undefined) found.push({ scheme: scheme.toLowerCase(), parameters: new Map() })
    else
      found
        .at(-1)
        ?.parameters.set(name!.toLowerCase(), quoted === undefined ? (bare ?? '') : quoted.replaceAll(/\\(.)/g, '$1'))
  }
  return found
}
