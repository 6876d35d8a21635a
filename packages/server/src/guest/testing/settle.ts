import { expect } from 'vitest'
import { GuestError } from '../client.ts'
import type { GuestErrorCode } from '../client.ts'

/** The error a promise rejects with, which must be a GuestError of this code. */
export async function refusal(promise: Promise<unknown>, code: GuestErrorCode): Promise<GuestError> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  expect(outcome).toMatchObject({ error: { code } })
  const { error } = outcome as { error: unknown }
  expect(error).toBeInstanceOf(GuestError)
  return error as GuestError
}
