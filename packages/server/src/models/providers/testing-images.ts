/** As much of an image as is ever looked at: its header. */
export function pngOf(width: number, height: number, bytes = 64): Buffer {
  const image = Buffer.alloc(bytes)
  Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex').copy(image)
  image.writeUInt32BE(width, 16)
  image.writeUInt32BE(height, 20)
  return image
}

export function jpegOf(width: number, height: number, commentBytes = 0): Buffer {
  const comments: Buffer[] = []
  for (let left = commentBytes; left > 0; left -= 60_000) {
    const size = Math.min(left, 60_000)
    const comment = Buffer.alloc(size + 4, 0x20)
    comment.writeUInt16BE(0xfffe, 0)
    comment.writeUInt16BE(size + 2, 2)
    comments.push(comment)
  }
  const frame = Buffer.from('ffc0001108000000000301220002110103110', 'hex')
  frame.writeUInt16BE(height, 5)
  frame.writeUInt16BE(width, 7)
  return Buffer.concat([Buffer.from('ffd8', 'hex'), ...comments, frame, Buffer.alloc(8)])
}

export function gifOf(width: number, height: number): Buffer {
  const image = Buffer.alloc(32)
  image.write('GIF89a', 'latin1')
  image.writeUInt16LE(width, 6)
  image.writeUInt16LE(height, 8)
  return image
}

export function webpOf(width: number, height: number): Buffer {
  const image = Buffer.alloc(64)
  image.write('RIFF\0\0\0\0WEBPVP8X', 'latin1')
  image.writeUIntLE(width - 1, 24, 3)
  image.writeUIntLE(height - 1, 27, 3)
  return image
}
