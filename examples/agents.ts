// Agents with tokens of their own, and a bot that asks for more. With the server running: node examples/agents.ts
import { Delta } from '@delta-agents/sdk'

const delta = new Delta()
const main = await delta.agents.create({
  name: 'Shop',
  config: { template: 'host', memoryMb: 128, tokenBudget: 100 },
})
const bot = await delta.agents.createBot({
  parentAgent: main,
  type: 'email',
  task: 'Answer questions about orders',
  memoryMb: 128,
  tokenBudget: 20,
})
console.log(`bot ${bot.id} stands below ${main.id}`)

await bot.files.write('orders.txt', '17 shoes\n18 hats\n')
const { stdout } = await bot.exec('wc -l < orders.txt')
console.log(`it knows ${stdout.trim()} orders`)

// Each acts by a token of its own.
const as = async (agentId: string, rights: string[]) =>
  new Delta({ apiKey: (await delta.agentTokens.create({ agentId, rights })).token })
const asBot = await as(bot.id, ['read:agents', 'request'])
const asMain = await as(main.id, ['read:agents', 'allocate'])

// Ten and less main gives by itself; more takes a person too.
for (const tokens of [5, 40]) {
  const request = await (await asBot.agents.get(bot.id)).requestTokens({ tokens, reason: 'More mails have come' })
  const { approvalId } = await asMain.tokenRequests.approve({ id: request.id, tokens })
  if (approvalId !== null) console.log(`main says yes; a person confirms with: delta approve yes ${approvalId}`)
  console.log(`${tokens} tokens: ${(await request.wait()).state}`)
}

for (const agent of [main, bot]) {
  const { balance, name } = await agent.refresh()
  const { granted, bought, held, used } = balance!
  console.log(`${name} has and had ${Math.round(granted + bought + held + used)} tokens`)
}
await main.archive()
