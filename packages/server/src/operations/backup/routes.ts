import { z } from '@hono/zod-openapi'
import type { ApiContext, Feature } from '../../kernel/http/api.ts'
import { nodeBody } from '../../kernel/http/body.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { sendStream } from '../../kernel/http/stream.ts'
import {
  backupWishSchema,
  passphraseHeaderSchema,
  restoreListSchema,
  restoreParamsSchema,
  restoreQuerySchema,
  stagedRestoreSchema,
} from './schema.ts'
import type { Backups } from './service.ts'

const ofDatabase = ['database_busy', 'database_unavailable', 'database_failed'] as const
const ofStorage = ['blob_missing', 'storage_unavailable', 'storage_refused', 'storage_failed', 'disk_full'] as const
const ofKey = 'data_folder_key_required'
const tags = ['operations']
const needs = 'write:operations'
const onlyOperator = 'Only with the key in the data folder: whoever has that has the machine.'
const binary = (description: string) => ({
  content: {
    'application/octet-stream': { schema: z.string().openapi({ type: 'string', format: 'binary', description }) },
  },
})

const backupRoute = createRoute({
  method: 'post',
  path: '/v1/backups',
  operationId: 'createBackup',
  needs,
  tags,
  refuses: [ofKey, ...ofDatabase, ...ofStorage],
  summary: 'All that can not be made again, as one file, while everything goes on',
  description: `${onlyOperator} docs/backup.md says what is in it.`,
  request: { body: { content: { 'application/json': { schema: backupWishSchema } } } },
  responses: { 200: { description: 'The backup', ...binary('The backup') } },
})

const stageRoute = createRoute({
  method: 'post',
  path: '/v1/restores',
  operationId: 'stageRestore',
  needs,
  tags,
  refuses: [
    ofKey,
    ...ofDatabase,
    ...ofStorage,
    'backup_invalid',
    'backup_too_new',
    'backup_passphrase_wrong',
    'restore_not_empty',
    'restore_in_progress',
    'restore_among_servers',
  ],
  summary: 'Check a backup whole and keep it ready; nothing is changed yet',
  description: onlyOperator,
  request: { query: restoreQuerySchema, headers: passphraseHeaderSchema, body: binary('The backup') },
  responses: { 201: json('It can be committed', stagedRestoreSchema) },
})

const commitRoute = createRoute({
  method: 'post',
  path: '/v1/restores/{id}/commit',
  operationId: 'commitRestore',
  needs,
  tags,
  refuses: [
    ofKey,
    ...ofDatabase,
    ...ofStorage,
    'backup_invalid',
    'restore_not_found',
    'restore_in_progress',
    'restore_among_servers',
  ],
  summary: 'Put the backup in the place of what is here, and start the server anew',
  description: `${onlyOperator} What is here is replaced at one moment or not at all.`,
  request: { params: restoreParamsSchema },
  responses: { 202: { description: 'The server starts anew; it has happened when GET /v1/restores lists it as done' } },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/restores',
  operationId: 'listRestores',
  needs: 'read:operations',
  tags,
  refuses: ofDatabase,
  summary: 'Backups that this database was restored from',
  responses: { 200: json('The newest first', restoreListSchema) },
})

export interface BackupsFeature {
  backups: Backups
  /** Throws for everybody but the key in the data folder. */
  requireDataFolderKey(c: ApiContext): void
}

export function backupsFeature({ backups, requireDataFolderKey }: BackupsFeature): Feature {
  return {
    name: 'backups',
    routes(api) {
      api.openapi(backupRoute, async (c) => {
        requireDataFolderKey(c)
        const { manifest, bytes, body } = await backups.backup(c.req.valid('json'))
        return sendStream(c, body, {
          headers: {
            'Content-Type': 'application/octet-stream',
            'Delta-Backup-Unsaved': String(manifest.unsaved),
            ...(bytes !== undefined && { 'Content-Length': String(bytes) }),
          },
        })
      })
      api.openapi(stageRoute, async (c) => {
        requireDataFolderKey(c)
        const passphrase = c.req.valid('header')['delta-passphrase']
        const { id, manifest, secrets, sameSecretKey } = await backups.stage(nodeBody(c), {
          replace: c.req.valid('query').replace,
          ...(passphrase !== undefined && { passphrase: Buffer.from(passphrase, 'base64url').toString('utf8') }),
        })
        const { createdAt: backupAt, server, tables, unsaved } = manifest
        const rows = Object.values(tables).reduce((sum, count) => sum + count, 0)
        const secretKey = sameSecretKey ? ('same' as const) : ('other' as const)
        return c.json({ id, backupAt, server, rows, unsaved, secretKey, secrets: secrets ?? null }, 201)
      })
      api.openapi(commitRoute, async (c) => {
        requireDataFolderKey(c)
        await backups.commit(c.req.valid('param').id)
        return c.body(null, 202)
      })
      api.openapi(listRoute, async (c) => c.json({ data: await backups.list(), nextCursor: null }, 200))
    },
    stop: backups.stop,
  }
}
