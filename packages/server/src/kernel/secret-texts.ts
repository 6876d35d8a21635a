/**
 * What this server hands out to be let in by: keys, links, refresh, access and agent tokens, and session tokens. A person may put one where an id belongs, as
 * who knows nothing of a leaked key but its text, and then it must not be kept in a log.
 */
const secretText = /(?<![A-Za-z0-9])(dk_|dln_|drt_|dag_|dat_|eyJ)[\w-][\w.-]{15,}/g

export function withoutSecrets(text: string): string {
  return text.replaceAll(secretText, '$1[redacted]')
}
