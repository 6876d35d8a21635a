// What features above ask about agents, beside what the service does.
export type { Directory, Known } from './directory.ts'
export { isOver, mayChange, mayKnow, mayWork, refusalOf } from './rules.ts'
