// A main agent hands a part of its task to a bot. With the server running and a model set (delta models): node examples/multi-agent.ts
import { Delta, type TaskEvent } from '@delta-agents/sdk'

const delta = new Delta()
const main = await delta.agents.create({ name: 'Editor', config: { memoryMb: 256, tokenBudget: 100 } })

const task = await delta.tasks.create({
  agent: main,
  text: 'Have a bot of your own find the ten longest words of /usr/share/dict/words or, if there are none, of the names of programs in /usr/bin. Then write a sentence with three of them to sentence.txt.',
  instructions: 'Give the bot 20 tokens, and no right that it does not need.',
})

const show = (who: string) => (event: TaskEvent) => {
  if (event.kind === 'call') console.log(`${who} → ${event.data.tool}`)
  if (event.kind === 'reply') {
    for (const part of event.data.parts) if (part.type === 'text') console.log(`${who}: ${part.text}`)
  }
}

const { state, message } = await task.wait({ onEvent: show('Editor') })
if (state !== 'finished') throw new Error(`The task is ${state}: ${message}`)

// What it delegated is a task too, of a bot below it.
for await (const part of delta.tasks.list()) {
  if (part.info.parentTaskId !== task.id) continue
  const bot = await delta.agents.get(part.agentId)
  console.log(`${bot.name}, below ${main.name}, was given: ${part.info.text}`)
  await part.wait({ onEvent: show(bot.name) })
  console.log(`it has spent ${part.info.usage.tokens} tokens on its model`)
}
console.log(await main.files.readText('sentence.txt'))
await main.archive()
