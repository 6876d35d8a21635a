import { randomFillSync } from 'node:crypto'

export type IdPrefix = 'sbx' | 'exe' | 'upp' | 'req' | 'evt' | 'key' | 'acc' | 'egc'

const alphabet = 'abcdefghijklmnopqrstuvwxyz0123456789'
const idLength = 20
// The largest multiple of 36 below 256: bytes from here on are thrown away, so that every character is equally likely.
const usableBytes = 252

// Drawn in blocks: a system call per id would be a tenth of what a short request costs.
const randomBlock = Buffer.alloc(4096)
let randomUsed = randomBlock.length

function nextByte(): number {
  if (randomUsed === randomBlock.length) {
    randomFillSync(randomBlock)
    randomUsed = 0
  }
  return randomBlock[randomUsed++]!
}

/** `sbx_` and 20 characters of [a-z0-9]: 103 bits, not to be guessed. */
export function newId(prefix: IdPrefix): string {
  let id = `${prefix}_`
  const wanted = id.length + idLength
  while (id.length < wanted) {
    const byte = nextByte()
    if (byte < usableBytes) id += alphabet[byte % alphabet.length]
  }
  return id
}

/** Whether `text` could be an id of this kind; says nothing about whether it exists. */
export function isId(prefix: IdPrefix, text: string): boolean {
  return text.startsWith(`${prefix}_`) && /^[a-z0-9]{1,40}$/.test(text.slice(prefix.length + 1))
}
