import { styleText } from 'node:util'

export interface OutputStream {
  isTTY?: boolean | undefined
  columns?: number | undefined
  rows?: number | undefined
  write(data: string | Uint8Array): boolean
  once(event: 'drain', listener: () => void): unknown
}

export interface InputStream extends AsyncIterable<Uint8Array> {
  isTTY?: boolean | undefined
}

/** Everything the command touches of its process, so that tests can stand in for it. */
export interface Io {
  env: NodeJS.ProcessEnv
  stdin: InputStream
  /** False for a terminal and for /dev/null. */
  stdinHasData: boolean
  stdout: OutputStream
  stderr: OutputStream
  /** Returns the function that stops listening. */
  onSignal(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP', listener: () => void): () => void
  /** Whether every key arrives as it is pressed, Ctrl-C among them, and what is written reaches the screen as it is. */
  setRaw(on: boolean): void
  /** Called when the terminal has another size; returns the function that stops listening. */
  onResize(listener: () => void): () => void
  /** Called when nobody reads stdout any more, as after `| head`. */
  onClosedOutput(listener: () => void): void
}

/** Resolves when the stream can take more, so that a slow reader holds the source back. */
export function write(stream: OutputStream, data: string | Uint8Array): Promise<void> | undefined {
  if (stream.write(data)) return undefined
  return new Promise((resolve) => stream.once('drain', resolve))
}

type Style = Parameters<typeof styleText>[0]

/** Colours for terminals only; NO_COLOR is honoured. */
export function paint(io: Io, stream: OutputStream, style: Style, text: string): string {
  if (stream.isTTY !== true || (io.env['NO_COLOR'] ?? '') !== '') return text
  return styleText(style, text, { validateStream: false })
}
