/** What is said of a span. What is undefined is left out. */
export type TraceAttributes = Readonly<Record<string, string | number | readonly string[] | undefined>>

export interface Span {
  /** Once; what comes later is nothing. A failure is a short word such as a code, never a text that somebody wrote. */
  end(attributes?: TraceAttributes, failure?: string): void
}

export interface SpanOptions {
  /** What it is a part of. @default it begins a trace of its own */
  within?: Span | undefined
  /** `client`: it asks another machine. @default internal */
  kind?: 'internal' | 'client'
}

/** What happened and how long it took, for whoever watches the whole. Nothing here throws or waits. */
export interface Traces {
  span(name: string, attributes: TraceAttributes, options?: SpanOptions): Span
}

const nothing: Span = { end: () => undefined }

/** Where nobody wants any. */
export const noTraces: Traces = { span: () => nothing }
