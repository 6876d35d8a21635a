import type { Feature } from '../../kernel/http/api.ts'
import type { Metrics } from '../../kernel/metrics.ts'
import type { MeterCounts } from './ledger.ts'

export interface MeteringParts {
  sandboxes: { meterCounts(): Readonly<MeterCounts> | undefined }
  egress: { meterCounts(): Readonly<MeterCounts> | undefined }
  storage: { counts(): { committed: number; owed: number }; stop(): Promise<void> }
}

/** What metering tells of itself; the routes are the ledger's. */
export function meteringFeature({ sandboxes, egress, storage }: MeteringParts): Feature {
  return {
    name: 'metering',
    metrics(metrics) {
      const held = () =>
        Object.entries({ sandbox: sandboxes, egress }).map(([kind, { meterCounts }]) => ({
          labels: { kind },
          value: meterCounts()?.held ?? 0,
        }))
      metrics.gauge(
        'delta_metered_held_micro_tokens',
        'Tokens held ahead, in millionths, by what they are held for',
        held,
      )
      countsOf(metrics, 'sandbox_time', sandboxes.meterCounts)
      countsOf(metrics, 'egress', egress.meterCounts)
      const { counts } = storage
      metrics.counterFrom('delta_storage_committed_micro_tokens_total', 'Paid for storage', () => counts().committed)
      metrics.counterFrom('delta_storage_owed_micro_tokens_total', 'Charged for storage and owed', () => counts().owed)
    },
    stop: storage.stop,
  }
}

function countsOf(metrics: Metrics, name: string, counts: MeteringParts['egress']['meterCounts']): void {
  const of = (key: 'committed' | 'absorbed') => () => counts()?.[key] ?? 0
  metrics.counterFrom(`delta_${name}_committed_micro_tokens_total`, 'Paid for what was measured', of('committed'))
  metrics.counterFrom(
    `delta_${name}_absorbed_micro_tokens_total`,
    'Cost beyond what was held, borne by the platform',
    of('absorbed'),
  )
}
