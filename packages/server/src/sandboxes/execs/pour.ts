import type { Readable } from 'node:stream'
import { DeltaError } from '../../kernel/errors.ts'

/**
 * Hands everything of `source` to `write`, one chunk after the other. Resolves false when `over` settled first, with the source paused and
 * otherwise untouched: it is the caller's, and a connection that is to carry the answer. Rejects when the source breaks.
 */
export function pour(
  source: Readable,
  write: (chunk: Buffer) => Promise<void> | undefined,
  over: Promise<unknown>,
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      source.off('data', onData).off('end', onEnd).off('error', onCut).off('close', onCut)
      source.pause()
      act()
    }
    const onData = (chunk: Buffer): void => {
      const busy = write(chunk)
      if (busy === undefined) return
      source.pause()
      busy.then(
        () => source.resume(),
        // That nothing more is taken is told by `over`, and why.
        () => {},
      )
    }
    const onEnd = (): void => settle(() => resolve(true))
    const onCut = (): void =>
      settle(() => {
        const { errored } = source
        reject(
          errored instanceof DeltaError
            ? errored
            : new DeltaError('canceled', 'The connection broke before the body was complete'),
        )
      })
    const onOver = (): void => settle(() => resolve(false))
    if (source.readableEnded) return resolve(true)
    if (source.destroyed) return onCut()
    over.then(onOver, onOver)
    source.on('end', onEnd).on('error', onCut).on('close', onCut).on('data', onData)
  })
}
