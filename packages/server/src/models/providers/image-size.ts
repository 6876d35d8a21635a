/** As wide and high as the header says; nothing of the picture is decoded. Undefined for what is no PNG, JPEG, GIF or WebP. */
export function imageSize(bytes: Uint8Array): { width: number; height: number } | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.length < 16) return undefined
  const size = pngSize(view) ?? gifSize(view) ?? webpSize(view) ?? jpegSize(view)
  return size && size.width > 0 && size.height > 0 ? size : undefined
}

function pngSize(view: Buffer) {
  if (view.length < 24 || view.readUInt32BE(0) !== 0x89504e47 || view.toString('latin1', 12, 16) !== 'IHDR')
    return undefined
  return { width: view.readUInt32BE(16), height: view.readUInt32BE(20) }
}

function gifSize(view: Buffer) {
  if (!/^GIF8[79]a$/.test(view.toString('latin1', 0, 6))) return undefined
  return { width: view.readUInt16LE(6), height: view.readUInt16LE(8) }
}

function webpSize(view: Buffer) {
  if (view.length < 30 || view.toString('latin1', 0, 4) !== 'RIFF' || view.toString('latin1', 8, 12) !== 'WEBP')
    return undefined
  const kind = view.toString('latin1', 12, 16)
  if (kind === 'VP8X') return { width: 1 + view.readUIntLE(24, 3), height: 1 + view.readUIntLE(27, 3) }
  if (kind === 'VP8 ') return { width: view.readUInt16LE(26) & 0x3fff, height: view.readUInt16LE(28) & 0x3fff }
  if (kind !== 'VP8L') return undefined
  const bits = view.readUInt32LE(21)
  return { width: 1 + (bits & 0x3fff), height: 1 + ((bits >>> 14) & 0x3fff) }
}

function jpegSize(view: Buffer) {
  if (view.readUInt16BE(0) !== 0xffd8) return undefined
  for (let at = 2; at + 9 <= view.length;) {
    if (view[at] !== 0xff) return undefined
    const marker = view[at + 1]!
    // Fill bytes before a marker.
    if (marker === 0xff) {
      at += 1
      continue
    }
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
    if (isFrame) return { width: view.readUInt16BE(at + 7), height: view.readUInt16BE(at + 5) }
    at += 2 + view.readUInt16BE(at + 2)
  }
  return undefined
}
