import { expect, test } from 'vitest'
import { limits } from './limits.ts'
import { createMetrics } from './metrics.ts'

test('counters, gauges and histograms are rendered in the text format', () => {
  const metrics = createMetrics()
  const requests = metrics.counter('requests_total', 'Requests')
  const seconds = metrics.histogram('seconds', 'Durations', [0.1, 1])
  metrics.gauge('boxes', 'Boxes', () => [{ labels: { state: 'running' }, value: 3 }])
  metrics.counterFrom('commits_total', 'Commits', () => 7)
  requests.add({ status: '200' })
  requests.add({ status: '200' }, 2)
  seconds.observe(0.05, { route: '/a' })
  seconds.observe(0.1, { route: '/a' })
  seconds.observe(5, { route: '/a' })
  expect(metrics.render()).toBe(`# HELP requests_total Requests
# TYPE requests_total counter
requests_total{status="200"} 3
# HELP seconds Durations
# TYPE seconds histogram
seconds_bucket{route="/a",le="0.1"} 2
seconds_bucket{route="/a",le="1"} 2
seconds_bucket{route="/a",le="+Inf"} 3
seconds_sum{route="/a"} 5.15
seconds_count{route="/a"} 3
# HELP boxes Boxes
# TYPE boxes gauge
boxes{state="running"} 3
# HELP commits_total Commits
# TYPE commits_total counter
commits_total 7
`)
})

test('a label can not break out of its quotes', () => {
  const metrics = createMetrics()
  metrics.counter('c', 'C').add({ path: 'a"b\\c\nd' })
  expect(metrics.render()).toContain('c{path="a\\"b\\\\c\\nd"} 1')
})

test('label combinations beyond the bound are counted together', () => {
  const metrics = createMetrics()
  const counter = metrics.counter('c', 'C')
  for (let i = 0; i < limits.metricSeries * 2; i++) counter.add({ i: String(i) })
  const lines = metrics.render().split('\n')
  expect(lines.length).toBeLessThan(limits.metricSeries + 10)
  expect(lines).toContain(`c{other="true"} ${limits.metricSeries}`)
})

test('one name is one metric', () => {
  const metrics = createMetrics()
  metrics.counter('c', 'C')
  expect(() => metrics.gauge('c', 'C', () => 1)).toThrow(/registered twice/)
})
