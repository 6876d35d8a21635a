import { createReadStream } from 'node:fs'
import { openTestPlatform } from './testing.ts'

// Restores a backup into a folder and says how far it is; killed by the test wherever it happens to be.

const [folder, file] = process.argv.slice(2)
const platform = await openTestPlatform({ folder: folder! })
process.stdout.write('open\n')
const { id } = await platform.backups.stage(createReadStream(file!), { replace: true })
process.stdout.write('staged\n')
await platform.backups.commit(id)
process.stdout.write('committed\n')
await platform.start()
process.stdout.write('done\n')
await platform.end()
