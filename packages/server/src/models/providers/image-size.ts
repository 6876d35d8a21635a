import { readImageHeader } from '../image-header.ts'

/** As wide and high as the header says; nothing of the picture is decoded. Undefined for what is no PNG, JPEG, GIF or WebP. */
export function imageSize(bytes: Uint8Array): { width: number; height: number } | undefined {
  const header = readImageHeader(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
  return header && { width: header.width, height: header.height }
}
