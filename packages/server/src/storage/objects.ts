import type { Bytes, PutOptions } from './blobs.ts'

export interface ObjectSource {
  /** `sha256/ab/…` or `documents/…`. */
  key: string
  /** Exactly this many bytes come. */
  size: number
  /** The same bytes each time. Throws at its end, before the last chunk, where they are not what they should be. */
  open(): Bytes
  /** A file with these very bytes, which may be linked instead. */
  path?: string | undefined
}

export interface ObjectPutOptions extends PutOptions {
  /** What is there already is replaced. Without it, an object of that key and size is a success without sending. */
  replace?: boolean
}

export interface StoredObject {
  key: string
  size: number
  modifiedAt: number
}

/** Named bytes as they are: what a folder and a bucket have in common. What they mean, and whether they are sound, is `blob-store.ts`'s business. */
export interface ObjectStore {
  readonly name: string
  /** Seen whole or not at all, and durable when it resolves. */
  put(object: ObjectSource, options?: ObjectPutOptions): Promise<{ stored: boolean }>
  /** Throws `blob_missing` where there is none. */
  get(key: string, options?: { signal?: AbortSignal | undefined }): Bytes
  size(key: string): Promise<number | null>
  remove(key: string): Promise<void>
  /** All whose key starts with `area` and a slash, sorted by key where the area is flat. */
  list(area: string): AsyncIterable<StoredObject>
  close(): Promise<void>
}
