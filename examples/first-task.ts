// A first task through the SDK. With the server running: node examples/first-task.ts
import { Sandbox } from '@delta-agents/sdk'

await using sandbox = await Sandbox.create({ metadata: { task: 'first' } })
console.log(`sandbox ${sandbox.id} runs`)

await sandbox.files.write(
  'primes.sh',
  `for n in $(seq 2 50); do
  for d in $(seq 2 $((n - 1))); do [ $((n % d)) = 0 ] && continue 2; done
  echo "$n"
done
`,
)
const { stdout, exitCode } = await sandbox.commands.run('bash primes.sh | tee primes.txt | wc -l')
console.log(`there are ${stdout.trim()} primes up to 50 (exit code ${exitCode})`)

const primes = await sandbox.files.readText('primes.txt')
console.log(primes.trim().split('\n').join(' '))
