import { UsageError } from './failure.ts'

export const defaultDetachKeys = 'ctrl-p,ctrl-q'

/** `ctrl-p,ctrl-q` as the bytes a terminal sends for it. */
export function parseDetachKeys(text: string): Uint8Array | undefined {
  if (text === 'none') return undefined
  const keys = text.split(',').map((key) => {
    const letter = /^ctrl-([a-z@[\]\\^_])$/i.exec(key)?.[1]
    if (letter !== undefined) return letter.toUpperCase().charCodeAt(0) & 0x1f
    if (/^[\x21-\x7e]$/.test(key)) return key.charCodeAt(0)
    throw new UsageError(`'${text}' are no keys: write them like ${defaultDetachKeys}, or 'none'`)
  })
  return Uint8Array.from(keys)
}

export interface DetachKeys {
  /** What of the input is to be sent; what may become the keys is held until more comes. */
  feed(input: Uint8Array): { send: Uint8Array; pressed: boolean }
  /** What is held, when nothing more came: it was meant for the program. */
  flush(): Uint8Array
}

/** Finds the keys in what is typed, wherever they are split. */
export function createDetachKeys(keys: Uint8Array | undefined): DetachKeys {
  let matched = 0
  return {
    feed(input) {
      if (keys === undefined) return { send: input, pressed: false }
      const send: number[] = []
      for (const byte of input) {
        if (byte !== keys[matched]) {
          send.push(...keys.subarray(0, matched))
          matched = 0
        }
        if (byte !== keys[matched]) {
          send.push(byte)
          continue
        }
        matched += 1
        if (matched === keys.length) return { send: Uint8Array.from(send), pressed: true }
      }
      return { send: Uint8Array.from(send), pressed: false }
    },
    flush() {
      const held = keys?.slice(0, matched) ?? new Uint8Array()
      matched = 0
      return held
    },
  }
}
