import { describe, expect, test } from 'vitest'
import { type Cidr, createAddressGuard, parseAddress } from './addresses.ts'

function judge(text: string, { allow = [] as Cidr[], own = [] as string[] } = {}) {
  return createAddressGuard({ allowCidrs: allow, ownAddresses: () => own }).judge(parseAddress(text)!)
}
const cidr = (address: string, prefix: number): Cidr => ({ address, prefix, family: address.includes(':') ? 6 : 4 })

test.each([
  '0.0.0.0',
  '0.1.2.3',
  '10.0.0.1',
  '10.255.255.255',
  '100.64.0.1',
  '100.100.100.200',
  '127.0.0.1',
  '127.255.255.254',
  '168.63.129.16',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.0.0.192',
  '192.0.2.1',
  '192.88.99.1',
  '192.168.1.1',
  '198.18.0.1',
  '198.19.255.255',
  '198.51.100.1',
  '203.0.113.80',
  '224.0.0.1',
  '239.255.255.255',
  '240.0.0.1',
  '255.255.255.255',
  '::',
  '::1',
  '::1.2.3.4',
  '::ffff:127.0.0.1',
  '::ffff:10.0.0.1',
  '::ffff:a00:1',
  '64:ff9b::10.0.0.1',
  '64:ff9b::8.8.8.8',
  '64:ff9b:1::1',
  '100::1',
  '2001::1',
  '2001:2::1',
  '2001:10::1',
  '2001:1ff:ffff::1',
  '2001:db8::1',
  '2002:a00:1::1',
  '3fff::1',
  '4000::1',
  '5f00::1',
  'fc00::1',
  'fd00:ec2::254',
  'fe80::1',
  'fec0::1',
  'ff02::1',
])('%s is not public', (address) => {
  expect(judge(address)).toBe('special')
})

test.each([
  '1.1.1.1',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '126.255.255.255',
  '128.0.0.0',
  '169.253.255.255',
  '172.15.255.255',
  '172.32.0.0',
  '192.0.1.0',
  '192.167.255.255',
  '198.17.255.255',
  '198.20.0.0',
  '223.255.255.255',
  '::ffff:8.8.8.8',
  '2001:200::1',
  '2606:4700::1111',
  '2a00::1',
])('%s is public', (address) => {
  expect(judge(address)).toBe('public')
})

describe('the operator', () => {
  test('allows ranges that are not public, to their ends', () => {
    const allow = [cidr('10.1.0.0', 16), cidr('fd00::', 8)]
    expect(['10.1.255.255', '10.2.0.0', 'fd12::1', 'fc00::1'].map((address) => judge(address, { allow }))).toEqual([
      'listed',
      'special',
      'listed',
      'special',
    ])
  })

  test('opens the addresses of this machine only one by one', () => {
    const own = ['10.1.0.5', '8.8.4.4', '2606:4700::5']
    const allow = [cidr('10.1.0.0', 16)]
    expect(own.map((address) => judge(address, { own, allow }))).toEqual(['own', 'own', 'own'])
    expect(judge('10.1.0.6', { own, allow })).toBe('listed')
    expect(judge('10.1.0.5', { own, allow: [...allow, cidr('10.1.0.5', 32)] })).toBe('listed')
    expect(judge('2606:4700::5', { own, allow: [cidr('2606:4700::5', 128)] })).toBe('listed')
  })
})

test('an address has one form; what is none is none', () => {
  expect(parseAddress('::FFFF:0102:0304')).toEqual({ address: '1.2.3.4', family: 4 })
  expect(parseAddress('[2001:DB8::0:1]')).toEqual({ address: '2001:db8::1', family: 6 })
  for (const text of ['1.2.3', '01.2.3.4', '[1.2.3.4]', 'fe80::1%lo', '1.2.3.4 ', 'localhost', '']) {
    expect(parseAddress(text)).toBeUndefined()
  }
})
