import type { ApiContext, Feature } from '../../kernel/http/api.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { mailListSchema } from './schema.ts'
import type { Mailbox } from './service.ts'

const listMailRoute = createRoute({
  method: 'get',
  path: '/v1/mail',
  operationId: 'listMail',
  needs: 'write:operations',
  tags: ['people'],
  refuses: ['database_busy', 'database_unavailable', 'database_failed'],
  summary: 'Mails about people: what was sent, and what is kept because no mail server is set',
  description:
    'Only for the operator: the owner of the first account and the key in the data folder. They hold links by which one is somebody else.',
  responses: { 200: json('The newest first', mailListSchema) },
})

export function mailFeature({
  mailbox,
  requireOperator,
}: {
  mailbox: Mailbox
  requireOperator(c: ApiContext): void
}): Feature {
  return {
    name: 'mail',
    routes(api) {
      api.openapi(listMailRoute, async (c) => {
        requireOperator(c)
        return c.json({ data: await mailbox.list(), nextCursor: null }, 200)
      })
    },
    stop: async () => mailbox.stop(),
  }
}
