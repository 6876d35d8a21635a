import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DeltaError } from '../../kernel/errors.ts'
import { emptyConfig, evaluate, initialState } from './evaluate.ts'
import type { Action, StageState } from './evaluate.ts'
import { dockerfileLimits, parseDockerfile } from './parse.ts'
import { planDockerfile } from './plan.ts'
import { expandWord } from './words.ts'

const platform = 'linux/amd64'

function plan(
  source: string,
  { buildArgs = {}, target }: { buildArgs?: Record<string, string>; target?: string } = {},
) {
  return planDockerfile(source, { buildArgs, target, platform })
}

/** Evaluates every instruction of the last stage. */
function walk(source: string, options: Parameters<typeof plan>[1] = {}) {
  const planned = plan(source, options)
  let state: StageState = initialState(emptyConfig)
  const actions: Action[] = []
  const notes: string[] = []
  for (const instruction of planned.stages.at(-1)!.instructions) {
    const step = evaluate(instruction, state, planned)
    state = step.state
    if (step.action.kind !== 'none') actions.push(step.action)
    if (step.note) notes.push(step.note)
  }
  return { state, config: state.config, actions, notes }
}

function refusal(act: () => unknown): { line: unknown; message: string } {
  try {
    act()
  } catch (error) {
    expect(error).toBeInstanceOf(DeltaError)
    const { code, context, message } = error as DeltaError
    expect(code).toBe('dockerfile_invalid')
    return { line: context?.['line'], message }
  }
  return expect.unreachable('it was accepted')
}

const run = (cmd: string) => ['/bin/sh', '-c', cmd]
const lookUp = (env: Record<string, string>) => (name: string) => env[name]

describe('instructions', () => {
  test('go over continued lines, past comments and empty lines', () => {
    const { instructions } = parseDockerfile('FROM a\r\n# no\nrun  one \\\n  # not this\n\n  two \\  \n three\nCMD x\n')
    expect(instructions.map(({ name, text, line }) => [line, name, text])).toEqual([
      [1, 'FROM', 'a'],
      [3, 'RUN', 'one   two  three'],
      [8, 'CMD', 'x'],
    ])
  })

  test('another escape character is heeded, two of them are one that is meant', () => {
    expect(
      parseDockerfile('# escape=`\nFROM a\nRUN one `\n two\\\nRUN x').instructions.map(({ text }) => text),
    ).toEqual(['a', 'one  two\\', 'x'])
    expect(parseDockerfile('FROM a\nRUN echo \\\\\nRUN x').instructions).toHaveLength(3)
    expect(parseDockerfile('FROM a\n# escape=`\nRUN a \\\n b').instructions[1]?.text).toBe('a  b')
  })

  test('flags come before the arguments, and not in CMD', () => {
    expect(parseDockerfile('FROM --platform=linux/amd64 a').instructions[0]).toMatchObject({
      flags: [{ name: 'platform', value: 'linux/amd64' }],
      text: 'a',
    })
    expect(parseDockerfile('FROM a\nCMD --version').instructions[1]).toMatchObject({ flags: [], text: '--version' })
  })

  test('heredocs belong to their instruction', () => {
    const { instructions } = parseDockerfile(
      "FROM a\nRUN <<EOF\necho 1\n  # kept\nEOF\nCOPY <<-'A' <<B /x/\n\ta $b\n\tA\nc\nB\nUSER u",
    )
    expect(instructions.map(({ name }) => name)).toEqual(['FROM', 'RUN', 'COPY', 'USER'])
    expect(instructions[1]?.heredocs).toEqual([{ name: 'EOF', expands: true, content: 'echo 1\n  # kept\n' }])
    expect(instructions[2]?.heredocs).toEqual([
      { name: 'A', expands: false, content: 'a $b\n' },
      { name: 'B', expands: true, content: 'c\n' },
    ])
  })

  test.each([
    ['FROM a\n\nFETCH b', 3, /no instruction "FETCH"/],
    ['RUN x', 1, /before the first FROM/],
    ['FROM', 1, /needs something/],
    ['# nothing\n', 1, /no instruction/],
    ['ARG a=1', 1, /no FROM/],
    ['FROM a\nRUN <<EOF\nx', 2, /has no end/],
    ['FROM a\nRUN --mount=type=secret,id=k x', 2, /--mount=type=secret,id=k is not supported/],
    ['FROM a\nRUN --security=insecure x', 2, /not supported/],
    ['FROM a\nONBUILD RUN x', 2, /ONBUILD is not supported/],
    ['FROM a\nENV 1a=b', 2, /no name of a variable/],
    ['FROM a\nENV a=${b#x}', 2, /only :-/],
    ['FROM a\nENV a=${b:?needed}', 2, /b: needed/],
    ['FROM a\nENV a="open', 2, /no closing "/],
    ['FROM a\nCOPY a', 2, /what to copy, and where to/],
    ['FROM a\nCOPY --from=2 a b', 2, /no stage 2/],
    ['FROM a\nCOPY --chown=$x a b', 2, /--chown/],
    ['FROM a\nCOPY --parents a b', 2, /--parents is not supported/],
    ['FROM a\nADD git@github.com:a/b.git /', 2, /git repository/],
    ['FROM a\nEXPOSE 99999', 2, /no port/],
    ['FROM a\nSHELL bash', 2, /JSON list/],
    ['FROM a\nUSER a b', 2, /no user/],
    ['FROM --platform=linux/arm64 a', 1, /this machine is linux\/amd64/],
    ['FROM a AS b\nFROM c AS B', 2, /a stage B already/],
    ['FROM $x', 1, /names nothing/],
    ['# syntax=example.com/other\nFROM a', 1, /another syntax/],
    ['FROM a\nENV \0=b', 1, /NUL/],
  ])('%j is refused with its line', (source, line, why) => {
    const refused = refusal(() => walk(source))
    expect(refused).toEqual({ line, message: expect.stringMatching(why) })
    expect(refused.message).toContain(`line ${line}:`)
  })

  test('what is too much of everything is refused', () => {
    const many = (line: string, count: number) => `FROM a\n${`${line}\n`.repeat(count)}`
    expect(refusal(() => plan(many('USER x', dockerfileLimits.instructions))).message).toMatch(
      /more than 1000 instructions/,
    )
    expect(refusal(() => plan('FROM a\n'.repeat(65))).message).toMatch(/more than 64 stages/)
    expect(refusal(() => plan(`FROM a\nRUN ${'x'.repeat(dockerfileLimits.instructionBytes)}`)).message).toMatch(
      /longer/,
    )
    expect(refusal(() => plan('x'.repeat(dockerfileLimits.bytes + 1))).message).toMatch(/longer/)
    // A variable doubled by each line would be 2^40 characters.
    expect(refusal(() => walk(`FROM a\nENV a=xxxxxxxx\n${'ENV a=$a$a$a$a\n'.repeat(20)}`)).message).toMatch(
      /longer than/,
    )
    expect(refusal(() => walk(`FROM a\nENV a=${'${b:-'.repeat(5_000)}x${'}'.repeat(5_000)}`)).message).toMatch(/deep/)
  })

  test('no text makes the parser do anything but answer or refuse', () => {
    const line = fc.oneof(
      fc.constantFrom(
        'FROM a',
        'RUN x \\',
        'COPY <<E /',
        'E',
        'ENV a=$b',
        'ENV a="${b:-$c}"',
        '# x',
        'ARG a',
        'ADD ["a"',
      ),
      fc.string(),
      fc.string({ unit: fc.constantFrom(...'\\$"\'{}[]<>-=:# \tA') }),
    )
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), (lines) => {
        try {
          walk(lines.join('\n'))
        } catch (error) {
          expect(error).toBeInstanceOf(DeltaError)
          expect((error as DeltaError).code).toBe('dockerfile_invalid')
        }
      }),
      { numRuns: 500, seed: 11 },
    )
  })
})

describe('variables', () => {
  const env = { a: '1', empty: '', long: 'x y' }
  test.each([
    ['$a-${a}', '1-1'],
    ['${a:-d}${b:-d}${empty:-d}', '1dd'],
    ['${a-d}${b-d}${empty-d}', '1d'],
    ['${a:+s}${b:+s}${empty:+s}', 's'],
    ['${a+s}${b+s}${empty+s}', 'ss'],
    ['${b:-${a}${c:-"q q"}}', '1q q'],
    ['\\$a "\\$a" \'$a\'', '$a $a $a'],
    ['"x\\y" x\\y', 'x\\y xy'],
    ['$long$', 'x y$'],
    ['$-$b', '$-'],
  ])('%s is %s', (word, is) => {
    expect(expandWord(word, { line: 1, escape: '\\', lookUp: lookUp(env) })).toBe(is)
  })

  test('a text without special characters stays what it is', () => {
    const plain = fc.string({ unit: fc.constantFrom(...'abcXYZ019/._-=,:@ä') })
    fc.assert(
      fc.property(plain, (word) => {
        expect(expandWord(word, { line: 1, escape: '\\', lookUp: lookUp(env) })).toBe(word)
      }),
      { seed: 12 },
    )
  })

  test('every text can be written in single quotes', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        fc.pre(!text.includes("'"))
        expect(expandWord(`'${text}'`, { line: 1, escape: '\\', lookUp: lookUp(env) })).toBe(text)
      }),
      { seed: 13 },
    )
  })
})

describe('what a stage does', () => {
  test('environment, user and folder hold for what follows', () => {
    const { config, actions } = walk(
      'FROM a\nENV X=1 Y="two $X"\nENV Z three four\nENV X=2 W=$X\nWORKDIR /a\nWORKDIR b/$W\nUSER app:app\nRUN go',
    )
    expect(config).toMatchObject({
      env: { X: '2', Y: 'two ', Z: 'three four', W: '1' },
      workdir: '/a/b/1',
      user: 'app:app',
    })
    expect(actions).toEqual([
      { kind: 'makeFolder', path: '/a', owner: '0:0' },
      { kind: 'makeFolder', path: '/a/b/1', owner: '0:0' },
      { kind: 'run', argv: run('go'), env: {}, user: 'app:app', cwd: '/a/b/1' },
    ])
  })

  test('ARG: the caller’s value, the default, the one above the first FROM; ENV wins', () => {
    const source = 'ARG V=1\nARG U\nFROM a:$V\nARG V\nARG U=u\nARG D=d\nARG TARGETARCH\nENV D=env\nRUN x\nENV S=$D$V'
    expect(plan(source).stages[0]?.base).toEqual({ kind: 'named', name: 'a:1' })
    expect(walk(source).actions[0]).toMatchObject({ env: { V: '1', U: 'u', D: 'd', TARGETARCH: 'amd64' } })
    expect(walk(source).config.env).toEqual({ D: 'env', S: 'env1' })
    const given = { buildArgs: { V: '2', D: 'given', other: 'x' } }
    expect(plan(source, given).stages[0]?.base).toEqual({ kind: 'named', name: 'a:2' })
    expect(walk(source, given).actions[0]).toMatchObject({ env: { V: '2', U: 'u', D: 'given' } })
    // What a stage does not declare is not there.
    expect(walk('ARG V=1\nFROM a\nENV S=x$V').config.env).toEqual({ S: 'x' })
  })

  test('commands are lists or go to the shell that was named', () => {
    const { config, actions } = walk(
      'FROM a\nCMD ["old"]\nENTRYPOINT ["e", "f"]\nSHELL ["/bin/bash", "-ec"]\nRUN a && b\nRUN ["c", "d e"]\nRUN [ -f x ]\nCMD g h',
    )
    expect(config).toMatchObject({ entrypoint: ['e', 'f'], cmd: ['/bin/bash', '-ec', 'g h'] })
    expect(actions.map((action) => action.kind === 'run' && action.argv)).toEqual([
      ['/bin/bash', '-ec', 'a && b'],
      ['c', 'd e'],
      ['/bin/bash', '-ec', '[ -f x ]'],
    ])
    expect(walk('FROM a\nCMD ["old"]\nENTRYPOINT e').config.cmd).toBeNull()
  })

  test('a heredoc alone is the script; with a command it goes to the command', () => {
    const { actions } = walk('FROM a\nRUN <<EOF\na\nb\nEOF\nRUN cat <<-E > /f\n\tx $y\n\tE')
    expect(actions.map((action) => action.kind === 'run' && action.argv)).toEqual([
      run('a\nb\n'),
      run('cat <<-E > /f\nx $y\nE\n'),
    ])
  })

  test('COPY and ADD say what goes where', () => {
    const { actions } = walk(
      'FROM a\nWORKDIR /w\nENV D=dir\nCOPY --chown=app:app --chmod=755 a b $D/\nCOPY ["with space", "./"]\nADD https://example.com/x.tgz /x\nCOPY <<"E" <<F /y/\n$D\nE\n$D \\$D\nF\n',
    )
    const copies = actions.filter((action) => action.kind === 'copy')
    expect(copies).toMatchObject([
      {
        sources: [
          { kind: 'path', value: 'a' },
          { kind: 'path', value: 'b' },
        ],
        dest: '/w/dir',
        intoFolder: true,
        owner: 'app:app',
        mode: 0o755,
        unpacks: false,
      },
      { sources: [{ kind: 'path', value: 'with space' }], dest: '/w', intoFolder: true, owner: '0:0', mode: undefined },
      { sources: [{ kind: 'url', value: 'https://example.com/x.tgz' }], dest: '/x', intoFolder: false, unpacks: true },
      {
        sources: [
          { kind: 'inline', value: 'E', content: '$D\n' },
          { kind: 'inline', value: 'F', content: 'dir $D\n' },
        ],
        dest: '/y',
      },
    ])
    expect(walk('FROM a\nCOPY a ../../../etc/x').actions).toMatchObject([{ dest: '/etc/x' }])
  })

  test('what means nothing here is said and left out', () => {
    const { notes, actions } = walk(
      'FROM a\nVOLUME /v\nHEALTHCHECK NONE\nSTOPSIGNAL 9\nRUN --mount=type=cache,target=/c x',
    )
    expect(notes).toHaveLength(4)
    expect(actions).toHaveLength(1)
  })
})

describe('stages', () => {
  const source =
    'FROM base AS one\nRUN a\nFROM one AS two\nRUN b\nFROM other AS unused\nRUN c\nFROM scratch\nCOPY --from=two /x /y\nCOPY --from=0 /x /z\nCOPY --from=image:1 /q /q'

  test('only those that the target needs are built, before it', () => {
    const { stages } = plan(source)
    expect(stages.map(({ index }) => index)).toEqual([0, 1, 3])
    expect(stages[1]?.base).toEqual({ kind: 'stage', index: 0 })
    expect([...stages[2]!.sources]).toEqual([
      ['two', { kind: 'stage', index: 1 }],
      ['0', { kind: 'stage', index: 0 }],
      ['image:1', { kind: 'named', name: 'image:1' }],
    ])
    expect(plan(source, { target: 'TWO' }).stages.map(({ index }) => index)).toEqual([0, 1])
    expect(plan(source, { target: '0' }).stages).toHaveLength(1)
    expect(refusal(() => plan(source, { target: 'nothing' })).message).toMatch(/no stage "nothing"/)
  })
})
