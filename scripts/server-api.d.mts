import type { Api } from '../packages/server/src/kernel/http/api.ts'
import type { OpenApiDocument } from './openapi-types.ts'

export function serverApi(): Api
export function serverDocument(api?: Api): Promise<OpenApiDocument>
