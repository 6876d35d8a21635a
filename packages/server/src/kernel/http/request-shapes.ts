import { z } from '@hono/zod-openapi'
import { limits } from '../limits.ts'

/** What a page of a list is asked for by. `cursorChars`: of the longest cursor that the list gives. */
export function pageQuery(limit: { max: number; default: number }, { cursorChars = 200 } = {}) {
  return {
    limit: queryInt('limit', limit),
    cursor: z
      .string()
      .max(cursorChars)
      .optional()
      .openapi({ param: { name: 'cursor', in: 'query' }, description: 'The `nextCursor` of the page before' }),
  }
}

/** A whole number in a query; absent is the default. `Number('')`, `1e3` and `0x10` are not what anybody means. */
function queryInt(name: string, { max, default: fallback }: { max: number; default: number }) {
  return z
    .string()
    .regex(/^[0-9]{1,9}$/, `${name} is a whole number`)
    .transform(Number)
    .pipe(z.int().min(1).max(max))
    .default(fallback)
    .openapi({ param: { name, in: 'query' }, type: 'integer', minimum: 1, maximum: max, default: fallback })
}

/** The headers of a POST that may be repeated. `description` says what is then the answer. */
export function idempotencyHeader(description: string) {
  return z.object({
    'idempotency-key': z.string().min(1).max(limits.idempotencyKeyChars).optional().openapi({ description }),
  })
}
