import { settingGroups, settings } from '../packages/server/src/kernel/settings.ts'
import type { Setting, SettingGroup } from '../packages/server/src/kernel/settings.ts'

const titles: Record<SettingGroup, string> = {
  server: 'The server',
  people: 'People and secrets',
  limits: 'How much anybody may ask',
  tokens: 'Tokens',
  models: 'Models',
  sandboxes: 'Sandboxes',
  network: 'What sandboxes reach',
  storage: 'Saved layers',
  machine: 'The machine',
}

const head = `<!-- Made by \`node scripts/config.mjs --write\` of packages/server/src/kernel/settings.ts. -->

# Configuration

Everything is set by variables of the environment. \`npm start\` also reads the file \`.env\` of the folder it is started in (\`env.example\` has every variable); what the environment has
already wins, also where it is empty. Give the file the mode 0600: it may hold secrets. A line is \`NAME=value\`, nothing in it is expanded.

- A wrong value stops the start; all wrong ones are named at once, with the reason and without their values.
- A variable that begins with \`DELTA_\` and that nobody reads is a warning at the start, with the nearest name there is.
- \`delta config\` shows what is in force, of secrets only whether they are set (\`GET /v1/config\`, for the operator). \`delta config --offline\` looks at \`.env\` and the environment without a server.
`

const all: [string, Setting][] = Object.entries(settings)

function ofGroup(group: SettingGroup): [string, Setting][] {
  return all.filter(([, setting]) => setting.group === group && !setting.internal)
}

/** Every setting, commented out, to be copied to `.env`. */
export function exampleOf(): string {
  const first =
    '# Made by `node scripts/config.mjs --write`. Copy it to .env (chmod 600) and take the # away from what you set.\n'
  const blocks = settingGroups.map((group) => {
    const lines = ofGroup(group).map(([name, setting]) => {
      const unit = setting.unit === undefined ? '' : ` (${setting.unit})`
      const without = setting.without === undefined ? '' : ` Without it: ${setting.without}.`
      return `# ${setting.what}${unit}.${without}\n#${name}=${setting.default ?? ''}\n`
    })
    return `\n## ${titles[group]}\n\n${lines.join('\n')}`
  })
  return first + blocks.join('')
}

export function documentOf(): string {
  const tables = settingGroups.map((group) => {
    const rows = ofGroup(group).map(([name, setting]) => {
      const { form, unit, what, secret } = setting
      const kind = [unit === undefined ? form : `${form}, ${unit}`, secret && 'secret'].filter(Boolean).join('; ')
      const fallback = setting.default ? `\`${setting.default}\`` : (setting.without ?? '')
      return `| \`${name}\` | ${kind} | ${fallback} | ${what} |\n`
    })
    return `\n## ${titles[group]}\n\n| variable | | default | |\n|---|---|---|---|\n${rows.join('')}`
  })
  return head + tables.join('')
}
