import { expect, test } from 'vitest'
import { blockBytes, copyToBlock, giveBlock, takeBlock } from './blocks.ts'

test('a block that was given back is the next one taken, once', () => {
  const block = takeBlock()
  giveBlock(block.subarray(0, 10))
  giveBlock(block)
  const [again, other] = [takeBlock(), takeBlock()]
  expect([again.buffer === block.buffer, again.length, other.buffer === block.buffer]).toEqual([
    true,
    blockBytes,
    false,
  ])
})

test('memory of others is never taken for a block', () => {
  const own = Buffer.allocUnsafeSlow(blockBytes)
  giveBlock(own)
  expect(takeBlock().buffer === own.buffer).toBe(false)
})

test('a copy is the same bytes whatever their length, and stays so when the original changes', () => {
  for (const length of [0, 1, blockBytes / 2 - 1, blockBytes / 2, blockBytes, blockBytes + 1]) {
    const bytes = Buffer.alloc(length, 'abc')
    const copy = copyToBlock(bytes)
    bytes.fill(0)
    expect(copy.equals(Buffer.alloc(length, 'abc'))).toBe(true)
    giveBlock(copy)
  }
})
