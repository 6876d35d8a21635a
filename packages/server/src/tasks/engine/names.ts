/** Who works on a task: DELTA's own loop, or another program in the agent's sandbox. */
export const engines = ['delta', 'claude-agent-sdk'] as const
export type EngineName = (typeof engines)[number]
