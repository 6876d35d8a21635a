/** Named lists of rules. A sandbox stores the name: what is added here is open to all that have the preset. */
export const presets = {
  /** Where package managers load from, without being able to publish anything but to the registries themselves. */
  packages: [
    // Debian, Ubuntu, Alpine
    'deb.debian.org',
    'security.debian.org',
    'ftp.debian.org',
    'cdn-fastly.deb.debian.org',
    'archive.debian.org',
    'snapshot.debian.org',
    'archive.ubuntu.com',
    '*.archive.ubuntu.com',
    'security.ubuntu.com',
    'ports.ubuntu.com',
    'ppa.launchpadcontent.net',
    'keyserver.ubuntu.com',
    'dl-cdn.alpinelinux.org',
    // Python
    'pypi.org',
    'files.pythonhosted.org',
    'conda.anaconda.org',
    'repo.anaconda.com',
    // JavaScript
    'registry.npmjs.org',
    'registry.yarnpkg.com',
    'nodejs.org',
    'jsr.io',
    'npm.jsr.io',
    // Rust
    'crates.io',
    'index.crates.io',
    'static.crates.io',
    'static.rust-lang.org',
    // Go
    'proxy.golang.org',
    'sum.golang.org',
    'go.dev',
    'dl.google.com',
    // Java
    'repo.maven.apache.org',
    'repo1.maven.org',
    'plugins.gradle.org',
    'services.gradle.org',
    // Ruby, PHP, .NET
    'rubygems.org',
    'index.rubygems.org',
    'packagist.org',
    'repo.packagist.org',
    'api.nuget.org',
  ],
  /** Code hosts, by HTTPS and by SSH. */
  git: [
    'github.com',
    'github.com:22',
    'ssh.github.com',
    'codeload.github.com',
    '*.githubusercontent.com',
    'github-cloud.s3.amazonaws.com',
    'gitlab.com',
    'gitlab.com:22',
    'altssh.gitlab.com',
    'bitbucket.org',
    'bitbucket.org:22',
    'altssh.bitbucket.org',
    'codeberg.org',
    'codeberg.org:22',
  ],
  /** The APIs of model providers, for programs that bring a key of their own. */
  models: [
    'api.anthropic.com',
    'api.openai.com',
    'generativelanguage.googleapis.com',
    'api.mistral.ai',
    'api.groq.com',
    'api.deepseek.com',
    'api.x.ai',
    'openrouter.ai',
    'huggingface.co',
    'router.huggingface.co',
    'cdn-lfs.huggingface.co',
    '*.hf.co',
  ],
} as const satisfies Record<string, readonly string[]>

export type PresetName = keyof typeof presets
export const presetNames = Object.keys(presets) as [PresetName, ...PresetName[]]
