export function readEnvFile(path: string, env: Record<string, string | undefined>, warn?: (line: string) => void): void
export function parseEnvFile(text: string, path?: string): Record<string, string>
