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
      settled = true
      source.off('data', onData).off('end', onEnd).off('error', onCut).off('close', onClose)
      source.pause()
      act()
    }
    let writing = 0
    let ended = false
    let settled = false
    const onData = (chunk: Buffer): void => {
      const busy = write(chunk)
      if (busy === undefined) return
      writing += 1
      source.pause()
      // That nothing more is taken is told by `over`, and why.
      busy.then(onWritten, () => {})
    }
    const onWritten = (): void => {
      writing -= 1
      if (settled) return
      if (ended) onEnd()
      else source.resume()
    }
    // A paused stream may still report its end, while its last chunk is not taken yet.
    const onEnd = (): void => {
      ended = true
      if (writing === 0) settle(() => resolve(true))
    }
    const onCut = (): void =>
      settle(() => {
        const { errored } = source
        reject(
          errored instanceof DeltaError
            ? errored
            : new DeltaError('canceled', 'The connection broke before the body was complete'),
        )
      })
    const onClose = (): void => {
      // After the end it is of no account: the last chunk may still be on its way.
      if (!ended) onCut()
    }
    const onOver = (): void => settle(() => resolve(false))
    if (source.readableEnded) return resolve(true)
    if (source.destroyed) return onCut()
    over.then(onOver, onOver)
    source.on('end', onEnd).on('error', onCut).on('close', onClose).on('data', onData)
  })
}
