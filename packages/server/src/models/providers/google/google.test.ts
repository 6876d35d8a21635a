import { expect } from 'vitest'
import { countGoogleInput, startGooglePeer } from '../../testing/google-peer.ts'
import { testProvider } from '../conformance.ts'
import { google } from './google.ts'

testProvider('Google', {
  provider: google,
  startPeer: startGooglePeer,
  models: ['gemini-3-pro-preview', 'gemini-2.5-flash', 'gemini-2.5-pro', 'gemini-2.0-flash'],
  countInput: countGoogleInput,
  showsMalformed: false,
  bound: { tool_call: { thoughtSignature: expect.any(String) as string } },
})
