import { createRoute } from '@hono/zod-openapi'
import type { Driver } from '../drivers/driver.ts'
import type { Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { findingListSchema } from './schema.ts'

const doctorRoute = createRoute({
  method: 'get',
  path: '/v1/doctor',
  operationId: 'runDoctor',
  tags: ['operations'],
  refuses: ['driver_failed', 'driver_timed_out', 'driver_unavailable', 'capacity_exhausted'],
  summary: 'Check the machine, and say what each finding means',
  responses: { 200: json('The findings', findingListSchema) },
})

export function operationsFeature({ driver }: { driver: Pick<Driver, 'doctor'> }): Feature {
  return {
    name: 'operations',
    routes(api) {
      api.openapi(doctorRoute, async (c) => c.json({ data: await driver.doctor(), nextCursor: null }, 200))
    },
  }
}
