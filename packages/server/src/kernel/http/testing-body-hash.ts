import { createBodyHash } from './body-hash.ts'

export const testHashBody = createBodyHash(Buffer.from('of the tests'))
