// Files that run side by side have platforms whose uids overlap nowhere: `npm test` says which uids each worker has.
const byWorker = process.env['DELTA_TEST_UIDS_BY_WORKER']
if (byWorker !== undefined) {
  const uids = (JSON.parse(byWorker) as NodeJS.ProcessEnv[])[Number(process.env['VITEST_POOL_ID']) - 1]
  if (!uids) throw new Error(`No uids are said for worker ${process.env['VITEST_POOL_ID']}`)
  Object.assign(process.env, uids)
}
