import { argon2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { argon2Parameters } from './limits.ts'
import type { Lane, Turns } from './turns.ts'

const argon2Async = promisify(argon2)

export interface Passwords {
  /** As it is stored: parameters, salt and tag in PHC form. */
  hash(password: string, lane: Lane): Promise<string>
  /** The same work whether there is a hash to compare with or not. */
  verify(password: string, stored: string | null, around: Around): Promise<boolean>
}

/** Both run in the turn of their password: what one has counted, the next one sees. */
export interface Around {
  lane: Lane
  before?(): Promise<void>
  after?(isRight: boolean): Promise<void>
}

export interface PasswordsDeps {
  turns: Turns
  /** Does the work; a test counts it. @default Argon2id in the thread pool */
  derive?: Derive
}

export type Derive = (password: Buffer, salt: Buffer) => Promise<Buffer>

export function createPasswords({ turns, derive = argon2id }: PasswordsDeps): Passwords {
  // What nobody has the password of: it is compared with where there is no user.
  const dummy = { salt: randomBytes(16), tag: randomBytes(argon2Parameters.tagLength) }
  const work = (password: string, salt: Buffer) => derive(Buffer.from(normalise(password)), salt)
  return {
    async hash(password, lane) {
      const salt = randomBytes(16)
      return encode(salt, await turns.run(() => work(password, salt), lane))
    },
    verify(password, stored, { lane, before, after }) {
      const { salt, tag } = (stored !== null && decode(stored)) || dummy
      return turns.run(async () => {
        await before?.()
        const isRight = timingSafeEqual(await work(password, salt), tag) && stored !== null
        await after?.(isRight)
        return isRight
      }, lane)
    },
  }
}

/** The same password however it was typed: `é` in one or two characters, full-width letters (RFC 8265 asks for less, NIST 800-63B for this). */
function normalise(password: string): string {
  return password.normalize('NFKC')
}

async function argon2id(password: Buffer, salt: Buffer): Promise<Buffer> {
  return argon2Async('argon2id', { message: password, nonce: salt, ...argon2Parameters })
}

const { memory, passes, parallelism } = argon2Parameters
const head = `$argon2id$v=19$m=${memory},t=${passes},p=${parallelism}$`

function encode(salt: Buffer, tag: Buffer): string {
  return `${head}${unpadded(salt)}$${unpadded(tag)}`
}

function decode(stored: string): { salt: Buffer; tag: Buffer } | undefined {
  if (!stored.startsWith(head)) return undefined
  const [salt = '', tag = ''] = stored.slice(head.length).split('$')
  return { salt: Buffer.from(salt, 'base64'), tag: Buffer.from(tag, 'base64') }
}

const unpadded = (bytes: Buffer) => bytes.toString('base64').replaceAll('=', '')
