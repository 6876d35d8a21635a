/** News of token requests; sent after the change is on disk. */
export interface TokenRequestEvents {
  'token_request.changed': { accountId: string; requestId: string }
}
