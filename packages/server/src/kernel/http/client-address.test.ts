import { expect, test } from 'vitest'
import type { Arrived } from './client-address.ts'
import { createClientAddress } from './client-address.ts'

const trusted = [
  { address: '10.0.0.0', prefix: 8, family: 4 },
  { address: 'fd00::', prefix: 8, family: 6 },
] as const

function from(remoteAddress: string, forwarded?: string): Arrived {
  return { socket: { remoteAddress }, headers: { 'x-forwarded-for': forwarded } }
}

test.each([
  ['nobody is trusted who is not listed', '203.0.113.9', '198.51.100.1', '203.0.113.9'],
  ['a trusted proxy is believed', '10.0.0.1', '198.51.100.1', '198.51.100.1'],
  ['what the client itself had sent is not', '10.0.0.1', '1.1.1.1, 198.51.100.1', '198.51.100.1'],
  ['proxies in a row are looked through', '10.0.0.1', '1.1.1.1, 198.51.100.1, 10.2.2.2,10.3.3.3', '198.51.100.1'],
  ['where all are proxies it is the farthest', '10.0.0.1', '10.4.4.4, 10.2.2.2', '10.4.4.4'],
  ['what is no address ends the search', '10.0.0.1', '198.51.100.1, unknown, 10.2.2.2', '10.2.2.2'],
  ['no header is the proxy itself', '10.0.0.1', undefined, '10.0.0.1'],
  ['an empty one too', '10.0.0.1', ' ', '10.0.0.1'],
  ['ports are left off', '10.0.0.1', '198.51.100.1:4711', '198.51.100.1'],
  ['IPv6 in brackets', 'fd00::5', '[2001:db8::1]:443', '2001:db8::1'],
  ['IPv4 in clothes of IPv6', '::ffff:10.0.0.1', '::ffff:198.51.100.1', '198.51.100.1'],
  ['a zone is no address', '10.0.0.1', 'fe80::1%eth0', '10.0.0.1'],
])('%s', (_, remote, forwarded, expected) => {
  expect(createClientAddress(trusted)(from(remote, forwarded))).toBe(expected)
})

test('without trusted proxies the header is nothing', () => {
  const address = createClientAddress([])
  expect(address(from('10.0.0.1', '198.51.100.1'))).toBe('10.0.0.1')
  expect(address(undefined)).toBeUndefined()
})

test('no more proxies in a row are looked through than a bound', () => {
  const row = ['198.51.100.1', ...Array<string>(100).fill('10.2.2.2')].join(', ')
  expect(createClientAddress(trusted)(from('10.0.0.1', row))).toBe('10.2.2.2')
})
