import type { Program, ProgramMemory, ProgramQuery, ProgramRow } from '../kernel/db/program.ts'
import { createBook, keyId, ownIds } from './book.ts'
import type { Account, Book, HoldRow, KeyRow, Tenant } from './book.ts'
import { decide, rowsOf } from './engine.ts'
import type { Answer, Operation } from './operations.ts'
import { accounts, balances, holds, keys, tenants, transfers, usage, wholeAccount } from './tables.ts'

/** The rows of purses and sides, which nearly every operation reads and nothing else writes. */
export const remembers = ['ledger_accounts', 'ledger_balances']

/**
 * A group of the ledger's operations: loads what they may touch, decides one after the other in memory, and writes what has changed. On PostgreSQL the rows of `ledger_tenants` are
 * the locks, always taken in the order of their ids: whoever has one reads and writes that account alone.
 */
export const program: Program<Operation, Answer> = function* (group, memory) {
  const book = createBook()
  yield* load(book, group, memory)
  const answers = group.map((operation) => decide(book, operation))
  yield* place(book)
  yield writesOf(book)
  if (memory) for (const row of book.all()) if (row) memory.set(row.id, row)
  return answers
}

type Loading = Generator<readonly ProgramQuery[], void, readonly ProgramRow[][]>

function* load(book: Book, group: readonly Operation[], memory?: ProgramMemory): Loading {
  const accountIds = unique(group.map(({ accountId }) => accountId))
  const opened = unique(group.flatMap(({ type, accountId }) => (type === 'open_account' ? [accountId] : [])))
  const holdIds = unique(group.flatMap((operation) => ('holdId' in operation ? [operation.holdId] : [])))
  const keyed = group.flatMap((operation) => ('key' in operation ? [operation] : []))
  const keyPairs = new Map(keyed.map(({ accountId, key }) => [keyId({ accountId, key }), [accountId, key]]))
  const [, foundTenants, foundHolds, foundKeys] = yield [
    { ...lockOpened, rows: opened.map((id) => [id]) },
    { ...selectTenants, rows: accountIds.map((id) => [id]) },
    { ...selectHolds, rows: holdIds.map((id) => [id]) },
    { ...selectKeys, rows: [...keyPairs.values()] },
  ]
  for (const row of foundTenants!) book.tenants.set(String(row['accountId']), row as unknown as Tenant)
  for (const id of holdIds) book.putHold(id, undefined)
  for (const row of foundHolds!) book.putHold(String(row['id']), row as unknown as HoldRow)
  for (const id of keyPairs.keys()) book.putKey(id, undefined)
  for (const row of foundKeys!) {
    const known = row as unknown as KeyRow
    book.putKey(keyId(known), known)
  }
  yield* loadAccounts(book, group, memory)
}

function* loadAccounts(book: Book, group: readonly Operation[], memory?: ProgramMemory): Loading {
  const whole = new Set<string>()
  const mixed = mixedAccounts(group)
  for (;;) {
    const unknown = new Set<string>()
    const missingWhole = new Set<string>()
    for (const operation of group) {
      const { accountId } = operation
      const wanted = rowsOf(book, operation)
      if (wanted === 'whole') {
        if (!whole.has(accountId)) missingWhole.add(accountId)
      } else for (const id of wanted) if (!book.knows(id)) unknown.add(id)
    }
    for (const accountId of mixed) for (const id of ownIds(accountId)) if (!book.knows(id)) unknown.add(id)
    if (unknown.size === 0 && missingWhole.size === 0) return
    // What is remembered may say what else is wanted, as what is found does.
    for (const id of unknown) book.putAccount(id, memory?.get(id) as Account | undefined)
    const missing = [...unknown].filter((id) => !book.peek(id))
    const [found, foundWhole] = yield [
      { ...selectAccounts, rows: missing.map((id) => [id]) },
      { ...selectWhole, rows: [...missingWhole].map((id) => [id]) },
    ]
    // As an object of its own: what a database gives back is slower to work on.
    for (const row of [...found!, ...foundWhole!]) book.putAccount(String(row['id']), { ...row } as unknown as Account)
    for (const accountId of missingWhole) whole.add(accountId)
  }
}

/** Where one operation of the group may make what another acts on, its rows can not be known before: there all that the account itself has is loaded. */
function mixedAccounts(group: readonly Operation[]): string[] {
  const types = new Map<string, Operation['type'] | 'mixed'>()
  for (const { accountId, type } of group) {
    const known = types.get(accountId)
    types.set(accountId, known === undefined || known === type ? type : 'mixed')
  }
  return [...types].flatMap(([accountId, type]) => (type === 'mixed' ? [accountId] : []))
}

function unique(ids: readonly string[]): string[] {
  return [...new Set(ids)].toSorted()
}

/** Numbers those that are new, so that purses which are made one after the other have their balances side by side. */
function* place({ added }: Book): Loading {
  const rows = [...added.accounts]
  const [found] = yield [{ ...selectPlaces, rows: rows.map((_, index) => [index + 1]) }]
  for (const [index, row] of rows.entries()) row.place = Number(found![index]!['place'])
}

function writesOf({ added, changed, usage: used }: Book): ProgramQuery[] {
  const old = <Row>(rows: Set<Row>, isNew: Set<Row>) => [...rows].filter((row) => !isNew.has(row))
  return [
    tenants.insert([...added.tenants]),
    tenants.update(old(changed.tenants, added.tenants)),
    accounts.insert([...added.accounts]),
    accounts.update(old(changed.accounts, added.accounts)),
    balances.insert([...added.accounts]),
    balances.update(old(changed.balances, added.accounts)),
    holds.insert([...added.holds]),
    holds.update(old(changed.holds, added.holds)),
    transfers.insert(added.transfers),
    usage.insert([...used.values()]),
    keys.insert(added.keys),
  ]
}

/** Two servers that open one account at once: there is no row yet that could be locked. */
const lockOpened = {
  sqlite: 'select ?1 as id',
  postgres: `select pg_advisory_xact_lock(hashtextextended(id, 7303614952)) is null as locked from (select id from unnest($1::text[]) as id order by id offset 0) ids`,
}
const selectTenants = {
  sqlite: `select ${tenants.selected} from ledger_tenants where account_id = ?`,
  postgres: `select ${tenants.selected} from ledger_tenants where account_id = any($1) order by account_id for update`,
}
const selectPlaces = {
  sqlite: 'select coalesce(max(place), 0) + ? as place from ledger_balances',
  postgres: `select nextval(pg_get_serial_sequence('ledger_balances', 'place')) as place from unnest($1::bigint[])`,
}
const selectAccounts = {
  sqlite: `select ${wholeAccount} from ledger_accounts_whole where id = ?`,
  postgres: `select ${wholeAccount} from ledger_accounts_whole where id = any($1)`,
}
/** What is archived has nothing and is given nothing: however many there have been, they are not looked at. */
const selectWhole = {
  sqlite: `select ${wholeAccount} from ledger_accounts_whole where account_id = ? and state <> 'archived'`,
  postgres: `select ${wholeAccount} from ledger_accounts_whole where account_id = any($1) and state <> 'archived'`,
}
const selectHolds = {
  sqlite: `select ${holds.selected} from ledger_holds where id = ?`,
  postgres: `select ${holds.selected} from ledger_holds where id = any($1)`,
}
const selectKeys = {
  sqlite: `select ${keys.selected} from ledger_keys where account_id = ? and key = ?`,
  postgres: `select ${keys.selected} from ledger_keys where (account_id, key) in (select * from unnest($1::text[], $2::text[]))`,
}
