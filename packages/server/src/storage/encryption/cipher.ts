import type { Bytes } from '../blobs.ts'

/** How objects are kept from whoever holds the storage. */
export interface Cipher {
  sealedSize(plainBytes: number): number
  /** Null where nothing sealed has that size. */
  plainSize(sealedBytes: number): number | null
  /** `name` is bound to the bytes: under another one they do not open. Equal bytes under one name give equal sealed bytes. */
  seal(source: Bytes, name: string): Bytes
  /** Throws `blob_damaged` or `storage_key_wrong` before anything that is not genuine is handed out. */
  open(source: Bytes, name: string): Bytes
}
