import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { attack } from './attack.ts'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'delta-cli-attack-'))
})
afterEach(() => rmSync(root, { recursive: true }))

function checkout(script: string): void {
  mkdirSync(join(root, 'attack'))
  mkdirSync(join(root, '.build/bin'), { recursive: true })
  writeFileSync(join(root, '.build/bin/delta-helper'), '')
  writeFileSync(join(root, 'attack/run.ts'), script)
}

test('without a checkout, without a helper and without root it says what to do instead', () => {
  expect(() => attack({ uid: 0, root })).toThrow('is not here')
  mkdirSync(join(root, 'attack'))
  writeFileSync(join(root, 'attack/run.ts'), '')
  expect(() => attack({ uid: 0, root })).toThrow('not built')
  rmSync(join(root, 'attack'), { recursive: true })
  checkout('')
  for (const uid of [1000, undefined]) expect(() => attack({ uid, root })).toThrow('needs root')
})

test("the battery's runtime is passed on, and its exit code is the command's", async () => {
  checkout("process.exitCode = process.argv.slice(2).join() === '--runtime,runsc' ? 0 : 1")
  expect(await attack({ uid: 0, root, runtime: 'runsc' })).toBe(0)
  expect(await attack({ uid: 0, root })).toBe(1)
})
