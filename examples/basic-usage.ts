// An agent does a task while you watch. With the server running and a model set (delta models): node examples/basic-usage.ts
import { Delta } from '@delta-agents/sdk'

const delta = new Delta()
const agent = await delta.agents.create({ name: 'Analyst', config: { memoryMb: 256, tokenBudget: 50 } })

const task = await delta.tasks.create({
  agent,
  text: 'Which product sold most? Compute it, and write a short report to report.md.',
  files: [{ path: 'sales.csv', content: 'product,count\nshoes,17\nhats,25\nshoes,11\n' }],
  tokenBudget: 20,
  // What the program needs of it, besides the words.
  resultSchema: {
    type: 'object',
    properties: { product: { type: 'string' }, count: { type: 'integer' } },
    required: ['product', 'count'],
  },
})

const { state, message, usage } = await task.wait({
  onEvent(event) {
    if (event.kind === 'call') console.log(`→ ${event.data.tool} ${event.data.input}`)
    if (event.kind === 'result' && event.data.isError) console.log(`  ${event.data.text}`)
    if (event.kind === 'reply') for (const part of event.data.parts) if (part.type === 'text') console.log(part.text)
  },
})
if (state !== 'finished') throw new Error(`The task is ${state}: ${message}`)

const { value, files } = await task.result()
console.log('result:', JSON.stringify(value))
for (const { path } of files) console.log(`${path}:\n${await agent.files.readText(path)}`)
console.log(`it took ${usage.input} tokens of input and ${usage.output} of output, ${usage.tokens} tokens of DELTA`)
await agent.archive()
