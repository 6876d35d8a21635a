import type { StreamOptions, ProviderEvent } from './provider.ts'

/** A request in a provider's own format, which another program has made: it goes out as it is, and the answer's bytes go to that program. */
export interface Passage {
  body: Readonly<Record<string, unknown>>
  /** In the provider's own words, such as betas. */
  headers: Readonly<Record<string, string>>
  /**
   * One whole event of the answer, byte by byte as it came, and what stands in it. Nothing more is read before it resolves. From the first one on the request is not made again: what was
   * passed on can not be taken back. An error within the stream is not passed on, but thrown as a failure.
   */
  write(bytes: Uint8Array, event: Readonly<Record<string, unknown>>): Promise<void>
}

export type Pass = (request: PassedRequest, options: StreamOptions) => AsyncIterable<ProviderEvent>

export interface PassedRequest extends Passage {
  /** As the provider names it. */
  model: string
  maxOutputTokens: number
}

/** How many tokens a request would come to, in the provider's own words and at no cost. Rejects with a `ProviderFailure`. */
export type CountTokens = (
  request: Pick<PassedRequest, 'body' | 'headers' | 'model'>,
  options: StreamOptions,
) => Promise<number>
