import type { Driver } from '../drivers/driver.ts'
import type { Feature } from '../kernel/http/api.ts'
import type { SettingInfo } from '../kernel/settings.ts'
import { json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import { findingListSchema, settingListSchema } from './schema.ts'

const doctorRoute = createRoute({
  method: 'get',
  path: '/v1/doctor',
  operationId: 'runDoctor',
  needs: 'read:operations',
  tags: ['operations'],
  refuses: ['driver_failed', 'driver_timed_out', 'driver_unavailable', 'capacity_exhausted'],
  summary: 'Check the machine, and say what each finding means',
  responses: { 200: json('The findings', findingListSchema) },
})

const configRoute = createRoute({
  method: 'get',
  path: '/v1/config',
  operationId: 'getConfig',
  needs: 'read:operations',
  tags: ['operations'],
  summary: 'Every setting with the value in force; of secrets only whether they are set',
  responses: { 200: json('The settings', settingListSchema) },
})

export interface OperationsDeps {
  driver: Pick<Driver, 'doctor'>
  settings: () => SettingInfo[]
}

export function operationsFeature({ driver, settings }: OperationsDeps): Feature {
  return {
    name: 'operations',
    routes(api) {
      api.openapi(doctorRoute, async (c) => c.json({ data: await driver.doctor(), nextCursor: null }, 200))
      api.openapi(configRoute, (c) => c.json({ data: settings(), nextCursor: null }, 200))
    },
  }
}
