import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { presetNames, presets } from './presets.ts'
import { formatRule, hostOf, parseRule } from './rule-text.ts'
import {
  beyond,
  type EgressPolicy,
  isWithin,
  mayConnect,
  policyRefusal,
  shownPolicy,
  shownTarget,
  widened,
} from './rules.ts'

const list = (...hosts: string[]): EgressPolicy => ({ hosts, presets: [] })
const may = (policy: EgressPolicy, host: string, port: number) => mayConnect(policy, { host, port }).allowed

function formatted(text: string): string {
  const rule = parseRule(text)
  return rule.ok ? formatRule(rule.value) : rule.reason
}

describe('a rule', () => {
  test.each([
    ['example.com', 'example.com'],
    ['EXAMPLE.Com.', 'example.com'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['*.Example.org', '*.example.org'],
    ['git.example.com:22', 'git.example.com:22'],
    ['example.com:*', 'example.com:*'],
    ['*.example.com:8443', '*.example.com:8443'],
    ['203.0.113.7', '203.0.113.7'],
    ['203.0.113.7:5432', '203.0.113.7:5432'],
    ['2001:DB8:0:0::1', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
    ['[2001:db8::1]:443', '[2001:db8::1]:443'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['localhost', 'localhost'],
    ['_dmarc.example.com', '_dmarc.example.com'],
  ])('%s is read as %s', (text, expected) => {
    expect(formatted(text)).toBe(expected)
    expect(formatted(expected)).toBe(expected)
  })

  test.each([
    ['', 'is not a host name'],
    ['https://example.com', 'has a scheme'],
    ['example.com/path', 'more than a host'],
    ['user@example.com', 'more than a host'],
    ['exa mple.com', 'more than a host'],
    ['10.0.0.0/8', 'is a range'],
    ['fd00::/8', 'is a range'],
    ['*', 'means every host'],
    ['*:22', 'means every host'],
    ['a.*.com', 'has * inside'],
    ['*.*.com', 'has * inside'],
    ['*example.com', 'has * inside'],
    ['*.203.0.113.7', 'is not a host name'],
    ['example.com:0', 'has a port'],
    ['example.com:65536', 'has a port'],
    ['example.com:', 'has a port'],
    ['example.com:http', 'has a port'],
    ['-a.example', 'is not a host name'],
    ['a..example', 'is not a host name'],
    [`${'a'.repeat(64)}.example`, 'is not a host name'],
    [`${'a.'.repeat(127)}example`, 'is not a host name'],
    ['a'.repeat(400), 'is longer than'],
    ['127.1', 'is not a host name'],
    ['0x7f000001', 'is not a host name'],
    ['2130706433', 'is not a host name'],
    ['fe80::1%eth0', 'has a port'],
    ['example.com\n', 'more than a host'],
  ])('%j is refused: %s', (text, reason) => {
    expect(formatted(text)).toContain(reason)
  })

  test('reading never throws, and what it makes reads as itself', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        const rule = parseRule(text)
        if (rule.ok) expect(formatted(formatRule(rule.value))).toBe(formatRule(rule.value))
      }),
    )
  })
})

test('the host a program names has one form', () => {
  expect(['Example.COM.', '[2001:DB8::1]', '::FFFF:1.2.3.4', 'BÜCHER.example'].map(hostOf)).toEqual([
    'example.com',
    '2001:db8::1',
    '1.2.3.4',
    'xn--bcher-kva.example',
  ])
  for (const text of ['', '.', 'a b', '1', '1.2.3', '0x7f.1', 'a\0b', 'x'.repeat(1_000)]) {
    expect(hostOf(text)).toBeUndefined()
  }
})

describe('a policy', () => {
  test('none refuses, all allows every port', () => {
    expect(may('none', 'example.com', 443)).toBe(false)
    expect(may('all', 'example.com', 25_565)).toBe(true)
  })

  test('a host is allowed at 80 and 443 unless the rule names a port', () => {
    const policy = list('a.example', 'b.example:22', 'c.example:*')
    expect([80, 443, 22, 8080].map((port) => may(policy, 'a.example', port))).toEqual([true, true, false, false])
    expect([80, 443, 22].map((port) => may(policy, 'b.example', port))).toEqual([false, false, true])
    expect(may(policy, 'c.example', 1)).toBe(true)
    expect(mayConnect(policy, { host: 'a.example', port: 22 })).toEqual({ allowed: false, reason: 'port' })
    expect(mayConnect(policy, { host: 'd.example', port: 80 })).toEqual({ allowed: false, reason: 'host' })
  })

  test('a wildcard stands for every depth below, not for the name itself nor for another that ends alike', () => {
    const policy = list('*.example.org')
    expect(may(policy, 'a.example.org', 443)).toBe(true)
    expect(may(policy, 'a.b.example.org', 443)).toBe(true)
    expect(may(policy, 'example.org', 443)).toBe(false)
    expect(may(policy, 'evilexample.org', 443)).toBe(false)
    expect(may(policy, 'a.example.org.evil.net', 443)).toBe(false)
  })

  test('a literal address needs a rule that names it, in whatever form that is', () => {
    const policy = list('203.0.113.7', '[2001:db8::1]:22', '*.7')
    expect(may(policy, '203.0.113.7', 443)).toBe(true)
    expect(may(policy, '203.0.113.8', 443)).toBe(false)
    expect(may(policy, '2001:db8::1', 22)).toBe(true)
    expect(may(policy, '2001:db8::2', 22)).toBe(false)
  })

  test('presets hold rules that read as themselves', () => {
    for (const name of presetNames) {
      for (const rule of presets[name]) expect(formatted(rule)).toBe(rule)
    }
    const policy: EgressPolicy = { hosts: [], presets: ['packages', 'git'] }
    expect(may(policy, 'pypi.org', 443)).toBe(true)
    expect(may(policy, 'github.com', 22)).toBe(true)
    expect(may(policy, 'objects.githubusercontent.com', 443)).toBe(true)
    expect(may(policy, 'api.openai.com', 443)).toBe(false)
  })

  test('is widened by more, and says what it is', () => {
    expect(widened('all', { hosts: ['a.example'], presets: [] })).toBe('all')
    expect(widened('none', { hosts: ['a.example'], presets: ['git'] })).toEqual({
      hosts: ['a.example'],
      presets: ['git'],
    })
    expect(widened(list('a.example'), { hosts: ['b.example', 'a.example'], presets: [] })).toEqual(
      list('a.example', 'b.example'),
    )
    expect(shownPolicy({ hosts: ['a.example'], presets: ['git'] })).toBe('git, a.example')
    expect(shownPolicy(list(...Array.from({ length: 9 }, (_, index) => `host-${index}.example`)))).toBe(
      'host-0.example, host-1.example, host-2.example, +6',
    )
    expect(shownPolicy(list())).toBe('an empty list')
  })
})

describe('one policy within another', () => {
  test.each([
    ['none', 'none', true],
    ['none', list(), true],
    ['all', 'all', true],
    ['all', list('*.com:*'), false],
    [list('a.example'), 'all', true],
    [list('a.example'), 'none', false],
    [list(), 'none', true],
    [list('a.example'), list('a.example'), true],
    [list('a.example:443'), list('a.example'), true],
    [list('a.example'), list('a.example:443'), false],
    [list('a.example'), list('a.example:443', 'a.example:80'), true],
    [list('a.example:22'), list('a.example:*'), true],
    [list('a.example:*'), list('a.example'), false],
    [list('x.a.example'), list('*.a.example'), true],
    [list('a.example'), list('*.a.example'), false],
    [list('*.b.a.example'), list('*.a.example'), true],
    [list('*.a.example'), list('*.b.a.example'), false],
    [list('*.a.example'), list('a.example', 'x.a.example'), false],
    [list('*.a.example:22'), list('*.a.example', '*.example:22'), true],
    [list('pypi.org'), { hosts: [], presets: ['packages'] }, true],
    [{ hosts: [], presets: ['git'] }, { hosts: [], presets: ['packages'] }, false],
    [{ hosts: [], presets: ['git'] }, { hosts: ['x.example'], presets: ['packages', 'git'] }, true],
  ] as [EgressPolicy, EgressPolicy, boolean][])('%j within %j: %s', (inner, outer, expected) => {
    expect(isWithin(inner, outer)).toBe(expected)
  })

  test('what is within allows nothing more', () => {
    const label = fc.constantFrom('a', 'b', 'c')
    const name = fc.array(label, { minLength: 1, maxLength: 3 }).map((labels) => `${labels.join('.')}.example`)
    const port = fc.constantFrom('', ':22', ':80', ':443', ':*')
    const rule = fc.tuple(fc.boolean(), name, port).map(([wild, host, at]) => `${wild ? '*.' : ''}${host}${at}`)
    const policy = fc.array(rule, { maxLength: 4 }).map((hosts) => list(...hosts))
    fc.assert(
      fc.property(policy, policy, name, fc.constantFrom(22, 80, 443, 9), (inner, outer, host, at) => {
        if (isWithin(inner, outer) && may(inner, host, at)) expect(may(outer, host, at)).toBe(true)
        const more = beyond(inner, outer)
        expect(more.length === 0).toBe(isWithin(inner, outer))
        if (!may(inner, host, at) || may(outer, host, at)) return
        expect(more.some((one) => one === host || (one.startsWith('*.') && host.endsWith(one.slice(1))))).toBe(true)
      }),
      { numRuns: 2_000 },
    )
  })

  test('names what one policy adds to another', () => {
    expect(beyond('all', 'none')).toEqual(['*'])
    expect(beyond('all', 'all')).toEqual([])
    expect(beyond('none', 'none')).toEqual([])
    expect(beyond(list('a.example', '*.b.example:22'), 'none')).toEqual(['a.example', '*.b.example'])
    expect(beyond(list('a.example:22', 'a.example'), list('a.example'))).toEqual(['a.example'])
    expect(beyond({ hosts: [], presets: ['packages'] }, { hosts: [], presets: ['packages'] })).toEqual([])
  })
})

describe('a refusal', () => {
  const sandboxId = `sbx_${'a'.repeat(20)}`

  test('names the target, the policy, the sandbox and the way to change it', () => {
    expect(policyRefusal({ host: 'pypi.org', port: 443 }, 'none', sandboxId, 'host')).toBe(
      `Egress to pypi.org:443 is refused by the policy "none" of ${sandboxId}; allow it with 'delta egress allow', or ask with POST /v1/sandboxes/{id}/network/requests`,
    )
    expect(policyRefusal({ host: 'pypi.org', port: 22 }, list('pypi.org'), sandboxId, 'port')).toContain('other ports')
  })

  test('is one printable line of at most 300 characters, whatever was asked for', () => {
    const policy = fc.oneof(
      fc.constantFrom('none' as const, 'all' as const),
      fc.array(fc.string({ unit: 'binary' }), { maxLength: 5 }).map((hosts) => list(...hosts)),
    )
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), policy, (host, from) => {
        const line = policyRefusal({ host, port: 65_535 }, from, sandboxId, 'port')
        expect(line).toMatch(/^[\x20-\x7e]{1,300}$/)
        expect(line).toContain('delta egress allow')
      }),
    )
  })

  test('puts IPv6 into brackets', () => {
    expect(shownTarget({ host: '2001:db8::1', port: 80 })).toBe('[2001:db8::1]:80')
  })
})
