/** What a server inside said that is no HTTP answer, or one that could be read in two ways. */
export class AnswerFault extends Error {}

export interface AnswerHead {
  status: number
  reason: string
  /** Names and values in turn, as they came but for the white space around values. */
  headers: string[]
  /** Whether another answer may follow on the connection. */
  keepsAlive: boolean
  /** Of the body; undefined where it ends by chunks or with the connection. */
  bytes: number | undefined
}

export interface AnswerListener {
  head(head: AnswerHead): void
  /** `last`: nothing follows. Not called with nothing in it, unless it is the last. */
  body(bytes: Buffer, last: boolean): void
  /** `101 Switching Protocols`; what follows is no HTTP any more. Only called where `upgrades` was asked for. */
  upgraded(head: AnswerHead, rest: Buffer): void
}

export interface AnswerParser {
  /** The answer to a request with that method comes next. */
  begin(method: string, upgrades?: boolean): void
  /** Throws `AnswerFault`, also for bytes after the answer's end. */
  feed(bytes: Buffer): void
  /** The connection has ended. Throws where the answer is not whole. */
  end(): void
  /** Nothing is expected. */
  readonly idle: boolean
}

const maxHeadBytes = 32 * 1024
const maxHeaders = 256
/** `103 Early Hints` and the like, in front of one answer. */
const maxInterim = 16
const maxChunkExtensionBytes = 256
const maxTrailerBytes = 8 * 1024
/** 16 TiB: beyond it a number would not be exact for long. */
const maxChunkDigits = 11

const headEnd = Buffer.from('\r\n\r\n')
const nothing = Buffer.alloc(0)
const statusLine = /^HTTP\/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n/
const headerLine = /([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n/y

type State =
  | 'idle'
  | 'head'
  | 'bytes'
  | 'until-end'
  | 'size'
  | 'size-line'
  | 'size-end'
  | 'chunk'
  | 'chunk-cr'
  | 'chunk-lf'
  | 'trailer'

/**
 * Reads the answers of one connection to a server inside, which is an enemy: whatever RFC 9112 leaves to tolerance (bare LF, folded lines,
 * several lengths, a length beside chunks) is refused, since two readers might understand it differently. Trailers are read and dropped.
 */
export function createAnswerParser(listener: AnswerListener): AnswerParser {
  let state: State = 'idle'
  let method = 'GET'
  let mayUpgrade = false
  let interim = 0
  /** A head that has not come whole. */
  let held: Buffer | undefined
  let heldBytes = 0
  /** Bytes to come of the body or of the chunk. */
  let left = 0
  let digits = 0
  /** Bytes of a chunk's extension or of the trailers. */
  let passed = 0
  let lineBytes = 0
  let sawCr = false

  const finish = (): void => {
    state = 'idle'
  }

  const readHead = (bytes: Buffer): Buffer => {
    const from = Math.max(0, heldBytes - 3)
    const all = held === undefined ? bytes : hold(bytes)
    const at = all.indexOf(headEnd, from)
    if (at < 0 || at + 4 > maxHeadBytes) {
      if (all.length > maxHeadBytes || at >= 0) throw new AnswerFault(`its header is larger than ${maxHeadBytes} bytes`)
      if (held === undefined) hold(bytes)
      return nothing
    }
    held = undefined
    heldBytes = 0
    const head = parseHead(all.toString('latin1', 0, at + 2))
    const rest = at + 4 === all.length ? nothing : all.subarray(at + 4)
    begun(head, rest)
    return state === 'idle' && mayUpgrade ? nothing : rest
  }

  /** Appends in place: a head that comes byte by byte costs no more than its bytes. */
  const hold = (bytes: Buffer): Buffer => {
    const whole = heldBytes + bytes.length
    if (held === undefined || held.length < whole) {
      const grown = Buffer.allocUnsafeSlow(Math.max(whole, 2 * heldBytes, 1_024))
      held?.copy(grown, 0, 0, heldBytes)
      held = grown
    }
    bytes.copy(held, heldBytes)
    heldBytes = whole
    return held.subarray(0, whole)
  }

  const begun = (head: ParsedHead, rest: Buffer): void => {
    const { status } = head
    if (status < 200) {
      if (status === 101) {
        if (!mayUpgrade) throw new AnswerFault('it switches protocols without having been asked to')
        state = 'idle'
        return listener.upgraded(head, rest)
      }
      interim += 1
      if (interim > maxInterim) throw new AnswerFault(`it sends more than ${maxInterim} interim answers`)
      return
    }
    mayUpgrade = false
    if (method === 'HEAD' || status === 204 || status === 304) {
      finish()
      listener.head(head)
      return listener.body(nothing, true)
    }
    if (head.chunked) {
      state = 'size'
      digits = 0
      left = 0
      return listener.head(head)
    }
    if (head.bytes === undefined) {
      state = 'until-end'
      head.keepsAlive = false
      return listener.head(head)
    }
    left = head.bytes
    if (left > 0) state = 'bytes'
    else finish()
    listener.head(head)
    if (left === 0) listener.body(nothing, true)
  }

  const readBytes = (bytes: Buffer): Buffer => {
    if (bytes.length < left) {
      left -= bytes.length
      listener.body(bytes, false)
      return nothing
    }
    const rest = bytes.length === left ? nothing : bytes.subarray(left)
    const last = rest === nothing ? bytes : bytes.subarray(0, left)
    left = 0
    finish()
    listener.body(last, true)
    return rest
  }

  /** All that is in these bytes of a chunked body, in one piece: a thousand chunks of a byte are one write. */
  const readChunks = (bytes: Buffer): Buffer => {
    const pieces: Buffer[] = []
    let at = 0
    while (at < bytes.length && state !== 'idle') {
      if (state === 'chunk') {
        const count = Math.min(left, bytes.length - at)
        pieces.push(bytes.subarray(at, at + count))
        left -= count
        at += count
        if (left === 0) state = 'chunk-cr'
        continue
      }
      readFraming(bytes[at]!)
      at += 1
    }
    const over = state === 'idle'
    if (pieces.length > 0 || over) {
      listener.body(pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces), over)
    }
    return at === bytes.length ? nothing : bytes.subarray(at)
  }

  const readFraming = (byte: number): void => {
    switch (state) {
      case 'size': {
        const value = hexValue(byte)
        if (value >= 0) {
          digits += 1
          if (digits > maxChunkDigits) throw new AnswerFault('a chunk claims to be larger than can be')
          left = left * 16 + value
          return
        }
        if (digits === 0) throw new AnswerFault('a chunk has no size')
        passed = 0
        if (byte === cr) state = 'size-end'
        else if (byte === semicolon || byte === space || byte === tab) state = 'size-line'
        else throw new AnswerFault('a chunk’s size is not a number')
        return
      }
      case 'size-line':
        passed += 1
        if (passed > maxChunkExtensionBytes) throw new AnswerFault('a chunk’s extension is too long')
        if (byte === cr) state = 'size-end'
        else if (byte === lf || byte === 0) throw new AnswerFault('a chunk’s size does not end with CR LF')
        return
      case 'size-end':
        if (byte !== lf) throw new AnswerFault('a chunk’s size does not end with CR LF')
        if (left > 0) state = 'chunk'
        else {
          state = 'trailer'
          passed = 0
          lineBytes = 0
          sawCr = false
        }
        return
      case 'chunk-cr':
        if (byte !== cr) throw new AnswerFault('a chunk is longer than its size')
        state = 'chunk-lf'
        return
      case 'chunk-lf':
        if (byte !== lf) throw new AnswerFault('a chunk is longer than its size')
        state = 'size'
        digits = 0
        return
      default:
        readTrailer(byte)
    }
  }

  const readTrailer = (byte: number): void => {
    passed += 1
    if (passed > maxTrailerBytes) throw new AnswerFault(`its trailers are larger than ${maxTrailerBytes} bytes`)
    if (sawCr !== (byte === lf)) throw new AnswerFault('a line of its trailers does not end with CR LF')
    if (byte === cr) {
      sawCr = true
      return
    }
    if (byte === lf) {
      sawCr = false
      if (lineBytes === 0) finish()
      lineBytes = 0
      return
    }
    lineBytes += 1
  }

  return {
    begin(nextMethod, upgrades = false) {
      method = nextMethod
      mayUpgrade = upgrades
      interim = 0
      state = 'head'
    },
    feed(bytes) {
      let rest = bytes
      while (rest.length > 0) {
        if (state === 'head') rest = readHead(rest)
        else if (state === 'bytes') rest = readBytes(rest)
        else if (state === 'idle') throw new AnswerFault('it sends more than the answer it announced')
        else if (state === 'until-end') {
          listener.body(rest, false)
          return
        } else rest = readChunks(rest)
      }
    },
    end() {
      if (state === 'idle') return
      if (state !== 'until-end') {
        throw new AnswerFault(
          state === 'head' ? 'it closed the connection without an answer' : 'its answer is cut short',
        )
      }
      finish()
      listener.body(nothing, true)
    },
    get idle() {
      return state === 'idle'
    },
  }
}

const cr = 0x0d
const lf = 0x0a
const semicolon = 0x3b
const space = 0x20
const tab = 0x09

function hexValue(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const lower = byte | 0x20
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1
}

interface ParsedHead extends AnswerHead {
  chunked: boolean
}

/** Of a head with the CR LF of its last line, without the empty one. */
function parseHead(text: string): ParsedHead {
  const first = statusLine.exec(text)
  if (!first) throw new AnswerFault('it does not begin with a status line of HTTP/1.0 or 1.1')
  const version = first[1]!
  const head: ParsedHead = {
    status: Number(first[2]),
    reason: first[3] ?? '',
    headers: [],
    keepsAlive: version === '1',
    bytes: undefined,
    chunked: false,
  }
  let lengths = 0
  let codings = 0
  headerLine.lastIndex = first[0].length
  while (headerLine.lastIndex < text.length) {
    const line = headerLine.exec(text)
    if (!line) throw new AnswerFault('one of its header lines is not valid')
    const name = line[1]!
    const value = withoutTrailingSpace(line[2]!)
    if (head.headers.length >= 2 * maxHeaders) throw new AnswerFault(`it has more than ${maxHeaders} headers`)
    head.headers.push(name, value)
    switch (name.length) {
      case 10:
        if (name.toLowerCase() === 'connection' && hasToken(value, 'close')) head.keepsAlive = false
        break
      case 14:
        if (name.toLowerCase() !== 'content-length') break
        lengths += 1
        if (!/^[0-9]{1,15}$/.test(value)) throw new AnswerFault('its Content-Length is not a number')
        head.bytes = Number(value)
        break
      case 17:
        if (name.toLowerCase() !== 'transfer-encoding') break
        codings += 1
        if (value.toLowerCase() !== 'chunked') throw new AnswerFault('its Transfer-Encoding is not just chunked')
        head.chunked = true
        break
    }
  }
  if (lengths > 1) throw new AnswerFault('it has more than one Content-Length')
  if (codings > 1) throw new AnswerFault('it has more than one Transfer-Encoding')
  if (codings > 0 && lengths > 0) throw new AnswerFault('it has a Content-Length beside a Transfer-Encoding')
  if (codings > 0 && version === '0') throw new AnswerFault('it sends chunks in HTTP/1.0')
  return head
}

export function hasToken(value: string, token: string): boolean {
  return value
    .toLowerCase()
    .split(',')
    .some((part) => part.trim() === token)
}

function withoutTrailingSpace(value: string): string {
  let end = value.length
  while (end > 0 && (value.charCodeAt(end - 1) === space || value.charCodeAt(end - 1) === tab)) end -= 1
  return end === value.length ? value : value.slice(0, end)
}
