import { createRoute as describeRoute } from '@hono/zod-openapi'
import type { RouteConfig } from './refusals.ts'

/** A route with all that is said of it; one that does not say what it `needs` of its caller does not compile. */
export function createRoute<Path extends string, Route extends Omit<RouteConfig, 'path'> & { path: Path }>(
  route: Route,
) {
  return describeRoute<Path, Route>(route)
}
