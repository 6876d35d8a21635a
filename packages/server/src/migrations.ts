import { auditMigrations } from './access/audit/migrations.ts'
import { keyMigrations } from './access/keys/migrations.ts'
import { mailMigrations } from './access/mail/migrations.ts'
import { accessMigrations } from './access/migrations.ts'
import { peopleMigrations } from './access/people/migrations.ts'
import { agentMigrations } from './agents/migrations.ts'
import { tokenRequestMigrations } from './agents/requests/migrations.ts'
import { approvalMigrations } from './approvals/migrations.ts'
import type { Migration } from './kernel/db/database.ts'
import { ledgerMigrations } from './ledger/migrations.ts'
import { modelMigrations } from './models/migrations.ts'
import { backupMigrations } from './operations/backup/migrations.ts'
import { sandboxMigrations } from './sandboxes/migrations.ts'
import { portMigrations } from './sandboxes/ports/migrations.ts'
import { taskMigrations } from './tasks/migrations.ts'
import { scheduleMigrations } from './tasks/schedules/migrations.ts'
import { webhookMigrations } from './tasks/webhooks/migrations.ts'
import { templateMigrations } from './templates/migrations.ts'
import { workspaceMigrations } from './workspaces/migrations.ts'
import { volumeMigrations } from './workspaces/volumes/migrations.ts'

/** Of each feature by itself: its own come one after the other, and those of different features do not know of each other. */
export const featureMigrations: readonly (readonly Migration[])[] = [
  volumeMigrations,
  workspaceMigrations,
  sandboxMigrations,
  templateMigrations,
  portMigrations,
  accessMigrations,
  keyMigrations,
  auditMigrations,
  peopleMigrations,
  mailMigrations,
  approvalMigrations,
  ledgerMigrations,
  backupMigrations,
  agentMigrations,
  tokenRequestMigrations,
  taskMigrations,
  modelMigrations,
  scheduleMigrations,
  webhookMigrations,
]

/** All that the database of a server has been through, in the order in which an empty one is built. */
export const allMigrations: readonly Migration[] = featureMigrations.flat()
