import { createHash, createHmac } from 'node:crypto'
import type { Seen } from './fault-proxy.ts'

/** What is wrong with a request's signature; empty when nothing is. Written from the description of AWS Signature Version 4, not from a client. */
export function faultsOfSignature({ method, url, headers, body }: Seen, secretAccessKey: string): string[] {
  const header = (name: string) => String(headers[name] ?? '')
  const found =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
      header('authorization'),
    )
  if (!found) return [`the header is '${header('authorization')}'`]
  const [, , day = '', region = '', signedHeaders = '', signature] = found
  const faults: string[] = []
  const names = signedHeaders.split(';')
  for (const name of ['host', 'x-amz-date', 'x-amz-content-sha256']) {
    if (!names.includes(name)) faults.push(`${name} is not signed`)
  }
  for (const name of Object.keys(headers)) {
    if (/^(x-amz-|content-md5$)/.test(name) && !names.includes(name)) faults.push(`${name} is not signed`)
  }
  const claimed = header('x-amz-content-sha256')
  const digest = createHash('sha256').update(body).digest('hex')
  if (claimed !== digest) faults.push(`the digest of the body is '${claimed}' instead of ${digest}`)
  const date = header('x-amz-date')
  if (!date.startsWith(day)) faults.push('the day is not the one of the date')
  const { pathname, searchParams } = new URL(url, 'http://host')
  const canonical = [
    method,
    pathname,
    [...searchParams]
      .map(([name, value]) => `${encoded(name)}=${encoded(value)}`)
      .sort()
      .join('&'),
    ...names.map((name) => `${name}:${header(name).trim().replaceAll(/ +/g, ' ')}`),
    '',
    signedHeaders,
    claimed,
  ].join('\n')
  const scope = `${day}/${region}/s3/aws4_request`
  const toSign = ['AWS4-HMAC-SHA256', date, scope, createHash('sha256').update(canonical).digest('hex')].join('\n')
  const hmac = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest()
  const key = [day, region, 's3', 'aws4_request'].reduce<string | Buffer>(hmac, `AWS4${secretAccessKey}`)
  if (hmac(key, toSign).toString('hex') !== signature) faults.push('the signature is not the one of this request')
  return faults
}

function encoded(text: string): string {
  return encodeURIComponent(text).replaceAll(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)
}
