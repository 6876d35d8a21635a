import type { Page } from './types.ts'

/** A list read page by page as it is iterated. */
export class Pages<T> implements AsyncIterable<T> {
  readonly #fetch: (cursor: string | undefined) => Promise<Page<T>>

  constructor(fetch: (cursor: string | undefined) => Promise<Page<T>>) {
    this.#fetch = fetch
  }

  /** One page; `nextCursor` is null on the last. */
  page(cursor?: string): Promise<Page<T>> {
    return this.#fetch(cursor)
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void> {
    let cursor: string | undefined
    do {
      const page = await this.#fetch(cursor)
      yield* page.data
      cursor = page.nextCursor ?? undefined
    } while (cursor !== undefined)
  }

  /** Everything at once. */
  async all(): Promise<T[]> {
    const items: T[] = []
    for await (const item of this) items.push(item)
    return items
  }
}
