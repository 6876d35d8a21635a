import { expect, test } from 'vitest'
import { csvLine } from './csv.ts'

test('cells stay cells whatever is in them', () => {
  expect(csvLine(['a', 1.5, null, 'b,c', 'd"e', 'f\r\ng'])).toBe('a,1.5,,"b,c","d""e","f\r\ng"\r\n')
})

test.each(['=1+1', '+1', '-1', '@SUM(A1)', '\t=1', '\r=1', '\n=1', '|cmd', '%0'])('%j is no formula', (cell) => {
  const line = csvLine([cell])
  expect(line.replace(/^"/, '').startsWith("'")).toBe(true)
  expect(line).toContain(cell)
})

test('numbers are written out', () => {
  expect(csvLine([0.0000001, -0.000001, 1e-12, 9_007_199_254.74, 0])).toBe(
    '0.0000001,-0.000001,0.000000000001,9007199254.74,0\r\n',
  )
})
