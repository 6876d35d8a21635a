import type { Recording } from './recording.ts'

const firstTry = `"""Fibonacci numbers: 0, 1, 1, 2, 3, 5, 8, …"""


def fibonacci(n):
    """The n-th one; the 0th is 0."""
    if n < 0:
        raise ValueError("n must not be negative")
    before, here = 0, 1
    for _ in range(n - 1):
        before, here = here, before + here
    return here
`

const tests = `import unittest

from fib import fibonacci


class FibonacciTest(unittest.TestCase):
    def test_first_ones(self):
        self.assertEqual([fibonacci(n) for n in range(10)], [0, 1, 1, 2, 3, 5, 8, 13, 21, 34])

    def test_large_one(self):
        self.assertEqual(fibonacci(100), 354224848179261915075)

    def test_negative(self):
        with self.assertRaises(ValueError):
            fibonacci(-1)


if __name__ == "__main__":
    unittest.main()
`

const run = { command: 'python3 -m unittest -v test_fib' }

/** A function with a mistake, a test that finds it, the mend. */
export const fibonacci: Recording = [
  {
    parts: [
      { text: 'I write the function first, and then tests that say what it should answer.' },
      { tool: 'write_file', input: { path: 'fib.py', content: firstTry } },
      { tool: 'write_file', input: { path: 'test_fib.py', content: tests } },
    ],
  },
  { after: /Wrote /, parts: [{ text: 'Now I run the tests.' }, { tool: 'run_terminal', input: run }] },
  {
    after: /\[1, 1, 1, 2, 3[^]*FAILED \(failures=1\)/,
    parts: [
      {
        text: 'One test fails: `fibonacci(0)` answers 1 instead of 0. My loop ends one step early and returns the later of the two numbers, which is right for every n but 0. I go round n times and return the earlier one.',
      },
      { tool: 'edit_file', input: { path: 'fib.py', oldText: 'range(n - 1)', newText: 'range(n)' } },
      { tool: 'edit_file', input: { path: 'fib.py', oldText: 'return here', newText: 'return before' } },
    ],
  },
  { after: /fib\.py/, parts: [{ text: 'Once more.' }, { tool: 'run_terminal', input: run }] },
  {
    after: /Ran 3 tests[^]*\nOK/,
    parts: [
      {
        text: 'It is done. `fib.py` holds `fibonacci(n)`, which counts from `fibonacci(0) == 0` and refuses negative numbers; `test_fib.py` tests it, and all three tests pass. The first version was wrong for n = 0, which the tests found.',
      },
    ],
  },
]
