// What features above ask about approvals, beside what the service does.
export type { Asker } from './record.ts'
export { askerOf, canonical, hashOf, hasRight as mayApprove, isAsker, isOwn, placesOf } from './rules.ts'
