import { z } from 'zod'

/** Where an agent works: relative paths begin there. */
export const workFolder = '/workspace'
const pathChars = 4_096

export const pathSchema = z
  .string()
  .min(1)
  .max(pathChars)
  .refine((path) => !path.includes('\0'), { message: 'must not contain NUL characters' })
  .refine((path) => path !== '~' && !path.startsWith('~/'), { message: '~ is not expanded: write the whole path' })
  .describe('Absolute, or relative to /workspace')

/** `..` and links are resolved inside the sandbox, where there is nothing above its root to reach. */
export function absolute(path: string, folder: string): string {
  return path.startsWith('/') ? path : path === '.' ? folder : `${folder}/${path}`
}
