import yargs, { type Argv } from 'yargs'
import { isVdiskError, VdiskError } from '../lib/index.ts'
import { type AnyCommand, EXIT } from './command.ts'
import { arrange, type Declared, positionsOf, type Shape, usageLine } from './command-line.ts'
import { FOREIGN_VERBS } from './foreign-words.ts'
import { Output } from './output.ts'
import { resembling } from './resembling.ts'
import { onStreamError, standardError, standardOutput } from './streams.ts'
import { UsageError } from './usage-error.ts'

/** Verbs, what they are for, and where they are: in the order in which people meet them. */
const VERBS: readonly (readonly [string, string, () => Promise<{ command: AnyCommand }>])[] = [
  ['info', 'what an image is, and who its parents are', () => import('./commands/info.ts')],
  ['create', 'make an image, empty or as the child of another', () => import('./commands/create.ts')],
  ['inspect', 'whether an image from a stranger can be used', () => import('./commands/inspect.ts')],
  ['check', 'look for damage in images and in the links between them', () => import('./commands/check.ts')],
  ['map', 'where the data of a disk lies', () => import('./commands/map.ts')],
  ['convert', 'copy a disk into an image of any format', () => import('./commands/convert.ts')],
  ['compare', 'tell whether two disks read the same', () => import('./commands/compare.ts')],
  ['resize', 'change the size of a disk', () => import('./commands/resize.ts')],
  ['snapshot', 'keep, list, go back to or drop states of a disk', () => import('./commands/snapshot.ts')],
  ['bitmap', 'dirty bitmaps of QEMU and libvirt in a qcow2 image', () => import('./commands/bitmap.ts')],
  ['track', 'record what changes, for those who back it up', () => import('./commands/track.ts')],
  ['backup', 'back up a disk: all of it, later what changed', () => import('./commands/backup.ts')],
  ['backups', 'list the backups in a folder', () => import('./commands/backups.ts')],
  ['verify', 'are backups what the disk was, and is it so still', () => import('./commands/verify.ts')],
  ['restore', 'make an image of a backup', () => import('./commands/restore.ts')],
  ['merge', 'merge an image into its parent, or several layers at once', () => import('./commands/merge.ts')],
  ['relink', 'point a child at its parent\u2019s new place', () => import('./commands/relink.ts')],
  ['undo', 'take back what the last verb did to an image', () => import('./commands/undo.ts')],
  ['mount', 'show a disk as a file, for reading and writing', () => import('./commands/mount.ts')],
  ['unmount', 'end that, with everything on the medium', () => import('./commands/unmount.ts')],
  ['flush', 'make durable what was written to a mounted disk', () => import('./commands/flush.ts')],
  ['mounts', 'what is mounted', () => import('./commands/mounts.ts')],
  ['tour', 'a short guided tour on a bundled chain of images', () => import('./commands/tour.ts')],
]

const COMMON_EXITS = '0 done, 1 failed, 2 wrong usage, 130 interrupted'

const interrupt = new AbortController()

async function main(given: readonly string[]): Promise<number> {
  const argv = verbFirst(given)
  const verb = VERBS.find(([name]) => name === argv[0])
  let out = new Output(outputOptions({}, argv))
  let command: AnyCommand | undefined
  try {
    if (!verb) return await withoutVerb(argv)
    const [name, , load] = verb
    command = (await load()).command
    if (asksFor(argv, '--help', '-h')) {
      return await printHelp(usageOf(name, command), parserFor(name, command, []), command.exitCodes)
    }
    if (asksFor(argv, '--version')) return printVersion()
    const words = arrange(argv.slice(1), shapeOf(name, command))
    let args: Record<string, unknown> = {}
    const parser = parserFor(name, command, words, (parsed) => {
      args = parsed
    })
    await parser.parseAsync()
    out = new Output(outputOptions(args, argv))
    return await command.run({ args, out, signal: interrupt.signal })
  } catch (error) {
    if (isVdiskError(error, 'CANCELLED') || (interrupt.signal.aborted && isAbort(error))) {
      out.error(interrupted(command))
      return EXIT.interrupted
    }
    out.error(await withHolder(error))
    return failureCode(verb?.[0], error)
  }
}

/** Where an image is in use because we have it mounted ourselves, says where, and what to do. */
async function withHolder(error: unknown): Promise<unknown> {
  if (!isVdiskError(error, 'IN_USE') || error.where.file === undefined) return error
  const { explainHolder } = await import('../fuse/control/control-client.ts')
  return explainHolder(error, error.where.file)
}

/** `vdisk --json info x` is `vdisk info --json x`. */
function verbFirst(argv: readonly string[]): string[] {
  const at = argv.findIndex((word) => !word.startsWith('-'))
  const before = argv.slice(0, at)
  if (at <= 0 || !before.every((word) => MOVABLE.has(word))) return [...argv]
  return [argv[at] as string, ...before, ...argv.slice(at + 1)]
}

const MOVABLE = new Set(['--json', '--quiet', '-q', '--no-color'])

/** Help, version, or a hint what a verb may be. */
async function withoutVerb(argv: readonly string[]): Promise<number> {
  const [word] = argv
  if (word === 'version' || word === '-V' || asksFor(argv, '--version')) return printVersion()
  if (word === 'help' && argv[1] !== undefined) return await main([argv[1], '--help'])
  if (word === undefined || word === 'help' || asksFor(argv, '--help', '-h')) {
    const verbs = VERBS.map(([name, describe]) => `  ${name.padEnd(10)} ${describe}`).join('\n')
    const head = `vdisk: one tool for every virtual disk file.\n\nUsage: vdisk VERB ...\n\nVerbs:\n${verbs}\n\nvdisk VERB --help shows examples.`
    await printHelp(head, commonOptions(yargs([])))
    return word === undefined ? EXIT.usage : EXIT.ok
  }
  const names = VERBS.map(([name]) => name)
  const wrong = argv.find((one) => !MOVABLE.has(one))
  if (wrong === undefined) throw new UsageError('Cannot tell what to do: no verb is given', HELP)
  const foreign = FOREIGN_VERBS[wrong]
  const meant = foreign ?? resembling(wrong.replace(/^-+/, ''), names)
  const advice =
    meant === undefined ? '' : foreign ? `Here that is: vdisk ${meant}. ` : `Did you mean: vdisk ${meant}? `
  const why = wrong.startsWith('-') ? 'the verb comes first, then its options' : 'there is no such verb'
  throw new UsageError(`Cannot run vdisk ${wrong}: ${why}`, `${advice}${HELP}`)
}

const HELP = 'See all verbs: vdisk --help'

/** The verb is the parser's default command: then yargs makes no help text unless somebody asks for it. */
function parserFor(
  name: string,
  command: AnyCommand,
  argv: readonly string[],
  take: (args: Record<string, unknown>) => void = () => {},
): Argv {
  return commonOptions(yargs(argv as string[]))
    .scriptName(`vdisk ${name}`)
    .command('$0', false, (of: Argv) => command.options(of), take)
}

/** What yargs was told about a verb's options. Its types leave these two methods out. */
function shapeOf(name: string, command: AnyCommand): Shape {
  const parser = command.options(commonOptions(yargs([]))) as unknown as {
    getOptions(): Declared
    getDemandedOptions(): Record<string, unknown>
  }
  const positions = new Set(positionsOf(command.usage).map((position) => position.name))
  const demanded = Object.keys(parser.getDemandedOptions()).filter((option) => !positions.has(option))
  return { verb: name, usage: command.usage, declared: parser.getOptions(), demanded }
}

function asksFor(argv: readonly string[], ...words: string[]): boolean {
  const end = argv.indexOf('--')
  return argv.slice(0, end === -1 ? argv.length : end).some((word) => words.includes(word))
}

async function printHelp(head: string, parser: Argv, exits = COMMON_EXITS): Promise<number> {
  const width = Math.min(120, standardOutput().columns ?? 100)
  const options = await parser.usage('').wrap(width).getHelp()
  standardOutput().write(`${head}\n\n${inReadingOrder(options)}\n\nExit codes: ${exits}.\n`)
  return EXIT.ok
}

/** The verb's own options first; of the types and defaults that yargs shows only those that tell something. */
function inReadingOrder(help: string): string {
  const sections = help
    .trim()
    .replaceAll(/\[(?:boolean|string|array|number)\] ?|\[default: (?:false|\[\])\]/g, '')
    .replaceAll(/\n {10,}(?=\n|$)/g, '')
    .replaceAll(/^ +--version .*\n?/gm, '')
    .replaceAll(/\n *(?=\[)/g, '  ')
    .replaceAll(/ {3,}(?=\[)/g, '  ')
    .split(/\n\n+/)
    .map((section) => section.replaceAll(/[ ]+$/gm, '').trimEnd())
  const rank = (section: string): number =>
    ['Positionals', 'Options', 'Undo', 'Images', 'Output'].indexOf(section.split(':')[0] as string)
  return sections
    .filter((section) => section.includes('\n'))
    .sort((a, b) => rank(a) - rank(b))
    .join('\n\n')
}

function printVersion(): number {
  standardOutput().write(`${VERSION}\n`)
  return EXIT.ok
}

function interrupted(command: AnyCommand | undefined): VdiskError {
  return new VdiskError('CANCELLED', {
    message: 'Interrupted',
    advice: command?.afterInterrupt ?? 'What was there before is unchanged.',
  })
}

/** Whether this is how Node's own functions end when a signal tells them to. */
function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError'
}

function commonOptions(parser: Argv): Argv {
  return parser
    .usage('')
    .option('json', {
      type: 'boolean',
      default: false,
      describe: 'one JSON document on standard output',
      group: 'Output:',
    })
    .option('quiet', {
      alias: 'q',
      type: 'boolean',
      default: false,
      describe: 'no notes, no progress',
      group: 'Output:',
    })
    .option('color', { type: 'boolean', default: true, describe: 'colour on a terminal', group: 'Output:' })
    .option('progress', {
      choices: ['auto', 'json', 'none'] as const,
      default: 'auto' as const,
      describe: 'how to show progress, on standard error',
      group: 'Output:',
    })
    .strict()
    .version(VERSION)
    .locale('en')
    .help(false)
    .exitProcess(false)
    .fail((message) => {
      throw new UsageError(`Cannot understand the command line: ${message}`, HELP)
    })
}

/** Examples come first: most people look for the line to copy. */
function usageOf(name: string, command: AnyCommand): string {
  const examples = command.examples.map(([line, what]) => `  ${line}\n      ${what}`).join('\n')
  const { usage } = command
  const line = usageLine({ verb: name, usage, demanded: shapeOf(name, command).demanded })
  return `Usage: ${line}\n\nExamples:\n${examples}\n\n${command.describe}`
}

function outputOptions(
  args: Record<string, unknown>,
  argv: readonly string[],
): ConstructorParameters<typeof Output>[0] {
  return {
    json: args.json === undefined ? argv.includes('--json') : Boolean(args.json),
    quiet: Boolean(args.quiet),
    color: args.color !== false && !argv.includes('--no-color') && !process.env.NO_COLOR,
    progress: (args.progress as 'auto' | 'json' | 'none' | undefined) ?? 'auto',
  }
}

/** Verbs whose exit code says something of its own keep "could not do it" apart from that. */
function failureCode(verb: string | undefined, error: unknown): number {
  if (verb === 'compare') return 2
  if (verb === 'check') return isVdiskError(error, 'UNSUPPORTED') ? 63 : EXIT.failed
  // There 2 is a verdict.
  if (verb === 'inspect') return EXIT.failed
  return error instanceof UsageError ? EXIT.usage : EXIT.failed
}

declare const __VDISK_VERSION__: string | undefined
const VERSION = typeof __VDISK_VERSION__ === 'string' ? __VDISK_VERSION__ : 'development'

let interruptedAt = 0
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    const now = Date.now()
    // A terminal, npm and a script may each pass on the same Ctrl-C; only a second one of the user means "at once".
    if (interrupt.signal.aborted && now - interruptedAt > 500) {
      // The progress bar hides the cursor.
      if (standardError().isTTY) standardError().write('\u001b[?25h\n')
      process.exit(EXIT.interrupted)
    }
    if (!interrupt.signal.aborted) interruptedAt = now
    interrupt.abort()
  })
}

onStreamError((stream, error) => {
  // A reader that has seen enough (head, less) is no error.
  if (error.code === 'EPIPE') process.exit(EXIT.ok)
  if (stream.fd === 1) new Output(outputOptions({}, [])).error(error)
  process.exit(EXIT.failed)
})

process.on('uncaughtException', (error) => {
  new Output(outputOptions({}, process.argv)).error(error)
  process.exit(EXIT.failed)
})

// The bundle is CommonJS, where a module cannot await.
void main(process.argv.slice(2)).then((code) => {
  process.exitCode = code
})
