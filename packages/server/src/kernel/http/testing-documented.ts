import type { Api } from './api.ts'

interface Operation {
  responses: Record<string, { description: string }>
}

/** Fails for a refusal that the API's description of the operation does not name, by status and by code. */
export function createDocumentCheck(api: Api) {
  const { paths = {} } = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
  const known = Object.entries(paths).map(([path, operations]) => ({
    pattern: new RegExp(`^${path.replaceAll(/\{.+?\}/g, '[^/]+')}$`),
    operations: operations as Record<string, Operation>,
  }))
  return (method: string, path: string, { status, code }: { status: number; code: unknown }): void => {
    // HEAD is GET without its body.
    const name = method === 'HEAD' ? 'get' : method.toLowerCase()
    const operation = known.find(({ pattern }) => pattern.test(new URL(path, 'http://x').pathname))?.operations[name]
    if (status < 400 || !operation) return
    const { description } = operation.responses[status] ?? {}
    if (description === undefined)
      throw new Error(`${method} ${path} answered ${status} ${String(code)}: not documented`)
    if (typeof code === 'string' && !description.includes(`\`${code}\``)) {
      throw new Error(`${method} ${path} answered ${status} ${code}, documented for it: ${description}`)
    }
  }
}
