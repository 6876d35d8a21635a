import { imageSize } from './image-size.ts'

/** A header stands in the first bytes of an image, but a JPEG may begin with a long description. */
const headerChars = 64 * 1024

/** Of the images of a body. All others count: a token is never less than a byte, whatever cuts a text into tokens. */
export function bytesOf(images: readonly string[]): number {
  return images.reduce((sum, data) => sum + (sizeOf(data) ? data.length : 0), 0)
}

/** What has no size counts as text, with its bytes. */
export function boundOfImage(data: string, tokens: (width: number, height: number) => number): number {
  const size = sizeOf(data)
  return size ? tokens(size.width, size.height) : 0
}

function sizeOf(data: string): { width: number; height: number } | undefined {
  // What is no base64 might count for more bytes than it has characters.
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(data)) return undefined
  return (
    imageSize(Buffer.from(data.slice(0, headerChars), 'base64')) ??
    (data.length > headerChars ? imageSize(Buffer.from(data, 'base64')) : undefined)
  )
}
