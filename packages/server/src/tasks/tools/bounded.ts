/** Of what a tool answers, for the model: about 4,000 input tokens. */
export const resultChars = 16_000
/** A cut is moved to the end of a line that is no farther than this. */
const lineReach = 1_000

export interface BoundedText {
  add(text: string): void
  /** All that was added. */
  readonly chars: number
  isCut(): boolean
  /** Head and tail; `rest` says in one line how to see what lies between. */
  text(rest: (leftOut: number) => string): string
}

/** Keeps the beginning and the end of a text of any length. */
export function createBoundedText(mostChars = resultChars): BoundedText {
  const half = Math.floor(mostChars / 2)
  let head = ''
  let tail = ''
  let chars = 0

  return {
    add(text) {
      chars += text.length
      const room = half - head.length
      head += text.slice(0, room)
      if (text.length <= room) return
      tail += text.slice(room)
      // Not at each piece: a command may write a byte at a time.
      if (tail.length > 4 * half) tail = tail.slice(-half)
    },
    get chars() {
      return chars
    },
    isCut: () => chars > mostChars,
    text(rest) {
      if (chars <= mostChars) return (head + tail).toWellFormed()
      const first = toLineEnd(head)
      const last = fromLineStart(tail.slice(-half))
      const note = rest(chars - first.length - last.length)
      return `${first}${first.endsWith('\n') ? '' : '\n'}[${note}]\n${last}`.toWellFormed()
    },
  }
}

/** The same for a text that is there whole. */
export function bounded(text: string, rest: (leftOut: number) => string, mostChars = resultChars): string {
  const kept = createBoundedText(mostChars)
  kept.add(text)
  return kept.text(rest)
}

/** At most so many characters of one line. */
export function shortened(text: string, mostChars: number): string {
  return text.length <= mostChars ? text : `${text.slice(0, Math.max(0, mostChars - 1)).toWellFormed()}…`
}

/** 1,234,567 */
export function shownCount(count: number): string {
  return count.toLocaleString('en-US')
}

function toLineEnd(text: string): string {
  const end = text.lastIndexOf('\n') + 1
  return text.length - end > lineReach ? text : text.slice(0, end)
}

function fromLineStart(text: string): string {
  const start = text.indexOf('\n') + 1
  return start > lineReach ? text : text.slice(start)
}
