/** Where the database finds the ledger's program: beside this source file in development, beside the bundle in a release. */
export const ledgerProgramUrl = new URL(
  import.meta.url.endsWith('.ts') ? './program.ts' : './ledger-program.mjs',
  import.meta.url,
)
