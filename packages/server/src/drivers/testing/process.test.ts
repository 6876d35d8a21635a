import { testDriver } from '../conformance.ts'
import { createProcessDriver } from './process.ts'

const none = 'an ordinary process without isolation'
let folderOf: (upperId: string) => string

testDriver(
  'insecure-process',
  async () => {
    const driver = await createProcessDriver()
    folderOf = driver.folderOf
    return { driver, close: () => driver.close(), leftovers: () => driver.leftovers() }
  },
  {
    lacks: {
      memory: none,
      processes: none,
      disk: none,
      isolation: none,
      'own uid': none,
      adoption: 'its boxes are its children',
    },
    user: `${process.getuid!()}`,
    folder: ({ upperId }) => `${folderOf(upperId)}/workspace`,
  },
)
