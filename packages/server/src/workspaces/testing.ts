import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createModelDriver, type ModelDriver } from '../drivers/testing/model.ts'
import { type ManualClock, manualClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { guardWrites } from '../kernel/db/testing.ts'
import { onTestFinished } from 'vitest'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import { createBlobStore } from '../storage/blob-store.ts'
import type { BlobStore } from '../storage/blobs.ts'
import { openFolder } from '../storage/folder/folder.ts'
import { createWorkspaceSchema, type CreateWorkspace } from './schema.ts'
import { createWorkspaces, type Workspaces } from './service.ts'

export const caller = { accountId: 'acc_a' }

export interface World {
  database: Database
  driver: ModelDriver
  clock: ManualClock
  blobs: BlobStore
  folder: string
}

/** A storage in a folder that goes with its test. */
export async function openTestStorage(
  onEnd: (end: () => Promise<void>) => void,
): Promise<{ blobs: BlobStore; folder: string }> {
  const place = mkdtempSync(join(tmpdir(), 'delta-workspaces-'))
  const blobs = createBlobStore({ objects: await openFolder({ path: join(place, 'blobs') }) })
  onEnd(async () => {
    await blobs.close()
    rmSync(place, { recursive: true })
  })
  return { blobs, folder: join(place, 'layers') }
}

export async function newWorld(database: Database): Promise<World> {
  const storage = await openTestStorage((end) => onTestFinished(end))
  return { database, driver: createModelDriver(), clock: manualClock(1_789_000_000_000), ...storage }
}

export async function serve(world: World): Promise<Workspaces> {
  const workspaces = createWorkspaces({ hashBody: testHashBody, ...world, log: silentLogger })
  await workspaces.start()
  // Before what it works on.
  onTestFinished(workspaces.stop)
  return workspaces
}

export function wish(fields: object = {}): CreateWorkspace {
  return createWorkspaceSchema.parse(fields)
}

/** The disk of a workspace, as the box that runs on it sees it. */
export async function diskOf({ driver }: World, workspaces: Workspaces, id: string): Promise<Map<string, string>> {
  const sandboxId = 'sbx_peek'
  const { upperId } = await workspaces.acquire(caller.accountId, id, sandboxId)
  await workspaces.release(id, sandboxId)
  return driver.contents(upperId)!
}

/** How much a server still does before it is killed. */
export interface Life {
  writes: number
}

function spend(life: Life): Promise<void> {
  life.writes -= 1
  return life.writes < 0 ? Promise.reject(new Error('The server was killed')) : Promise.resolve()
}

/** Refuses every write after so many, as seen by a server that is killed. */
export function mortal<Schema>(database: Database<Schema>, life: Life): Database<Schema> {
  return guardWrites(database, () => spend(life))
}

/** The same of a storage: each call that changes something is a write. */
export function mortalBlobs(blobs: BlobStore, life: Life): BlobStore {
  return {
    ...blobs,
    put: (blob, options) => spend(life).then(() => blobs.put(blob, options)),
    remove: (digest) => spend(life).then(() => blobs.remove(digest)),
    putDocument: (name, text) => spend(life).then(() => blobs.putDocument(name, text)),
    removeDocument: (name) => spend(life).then(() => blobs.removeDocument(name)),
  }
}
