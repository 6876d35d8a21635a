import { randomFillSync } from 'node:crypto'

const prefixes = [
  'sbx',
  'exe',
  'upp',
  'req',
  'evt',
  'key',
  'acc',
  'egc',
  'vol',
  'wsp',
  'snp',
  'wup',
  'tpl',
  'usr',
  'ses',
  'inv',
  'mal',
  'jti',
  'tok',
  'apr',
  'agt',
  'tsk',
  'hld',
  'srv',
  'trq',
  'tcl',
  'sch',
  'scr',
  'whk',
  'dlv',
] as const
export type IdPrefix = (typeof prefixes)[number]

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

const timeLength = 8

/** An id that sorts after those of earlier milliseconds, so that rows which are made one after the other lie side by side. 62 bits are not to be guessed. */
export function newOrderedId(prefix: IdPrefix, now: number): string {
  const time = Math.floor(now).toString(36).padStart(timeLength, '0')
  return `${prefix}_${time}${newId(prefix).slice(prefix.length + 1 + timeLength)}`
}

/** Whether `text` could be an id of this kind; says nothing about whether it exists. */
export function isId(prefix: IdPrefix, text: string): boolean {
  return text.startsWith(`${prefix}_`) && /^[a-z0-9]{1,40}$/.test(text.slice(prefix.length + 1))
}

/** Whether `text` could be an id of any kind. */
export function isAnyId(text: string): boolean {
  return prefixes.some((prefix) => isId(prefix, text))
}
