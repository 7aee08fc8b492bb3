import yargs, { type Argv } from 'yargs'
import { isVdiskError, VdiskError } from '../lib/index.ts'
import { type AnyCommand, EXIT } from './command.ts'
import { Output } from './output.ts'

/** Verbs, what they are for, and where they are: in the order in which people meet them. */
const VERBS: readonly (readonly [string, string, () => Promise<{ command: AnyCommand }>])[] = [
  ['info', 'what an image is, and who its parents are', () => import('./commands/info.ts')],
  ['create', 'make an image, empty or as the child of another', () => import('./commands/create.ts')],
  ['check', 'look for damage in images and in the links between them', () => import('./commands/check.ts')],
  ['map', 'where the data of a disk lies', () => import('./commands/map.ts')],
  ['convert', 'copy a disk into an image of any format', () => import('./commands/convert.ts')],
  ['compare', 'tell whether two disks read the same', () => import('./commands/compare.ts')],
  ['resize', 'change the size of a disk', () => import('./commands/resize.ts')],
  ['snapshot', 'keep, list, go back to or drop states of a disk', () => import('./commands/snapshot.ts')],
  ['merge', 'merge an image into its parent, or several layers at once', () => import('./commands/merge.ts')],
  ['relink', 'point a child at its parent\u2019s new place', () => import('./commands/relink.ts')],
  ['mount', 'show a disk as a file, for reading and writing', () => import('./commands/mount.ts')],
  ['unmount', 'end that, with everything on the medium', () => import('./commands/unmount.ts')],
  ['mounts', 'what is mounted', () => import('./commands/mounts.ts')],
  ['tour', 'a short guided tour on a bundled chain of images', () => import('./commands/tour.ts')],
]

const COMMON_EXITS = '0 done, 1 failed, 2 wrong usage, 130 interrupted'

const interrupt = new AbortController()

async function main(argv: readonly string[]): Promise<number> {
  const verb = VERBS.find(([name]) => name === argv[0])
  let out = new Output(outputOptions({}, argv))
  try {
    if (!verb) return await withoutVerb(argv)
    const [name, , load] = verb
    const { command } = await load()
    if (asksForHelp(argv)) return await printHelp(usageOf(name, command), parserFor(name, command, []))
    let args: Record<string, unknown> = {}
    const parser = parserFor(name, command, argv.slice(1), (parsed) => {
      args = parsed
    })
    await parser.parseAsync()
    out = new Output(outputOptions(args, argv))
    return await command.run({ args, out, signal: interrupt.signal })
  } catch (error) {
    if (isVdiskError(error, 'CANCELLED') || interrupt.signal.aborted) {
      process.stderr.write('vdisk: interrupted; what was there before is unchanged\n')
      return EXIT.interrupted
    }
    out.error(error)
    return error instanceof UsageError ? EXIT.usage : failureCode(verb?.[0], error)
  }
}

/** Help, version, or a hint what a verb may be. */
async function withoutVerb(argv: readonly string[]): Promise<number> {
  const verbs = VERBS.map(([name, describe]) => `  ${name.padEnd(10)} ${describe}`).join('\n')
  if (argv.length === 0 || asksForHelp(argv)) {
    const head = `vdisk: one tool for every virtual disk file.\n\nUsage: vdisk VERB ...\n\nVerbs:\n${verbs}\n\nvdisk VERB --help shows examples.`
    await printHelp(head, commonOptions(yargs([])))
    return argv.length === 0 ? EXIT.usage : EXIT.ok
  }
  let parser = commonOptions(yargs(argv as string[]))
  for (const [name, describe] of VERBS) parser = parser.command(name, describe)
  await parser.demandCommand(1, 'Cannot tell what to do without a verb').recommendCommands().parseAsync()
  return EXIT.ok
}

/** The verb is the parser's default command: then yargs makes no help text unless somebody asks for it. */
function parserFor(
  name: string,
  command: AnyCommand,
  argv: readonly string[],
  take: (args: Record<string, unknown>) => void = () => {},
): Argv {
  return commonOptions(yargs(argv as string[]))
    .scriptName(`vdisk ${name}`)
    .command(`$0 ${command.usage}`.trimEnd(), false, (of: Argv) => command.options(of), take)
}

function asksForHelp(argv: readonly string[]): boolean {
  const end = argv.indexOf('--')
  return argv.slice(0, end === -1 ? argv.length : end).some((word) => word === '--help' || word === '-h')
}

async function printHelp(head: string, parser: Argv): Promise<number> {
  const options = await parser.usage('').getHelp()
  process.stdout.write(`${head}\n\n${options.trim()}\n\nExit codes: ${COMMON_EXITS}.\n`)
  return EXIT.ok
}

/** A command line that cannot be understood. */
class UsageError extends VdiskError {
  constructor(message: string) {
    super('REFUSED', { message, advice: 'See vdisk --help, or vdisk VERB --help.' })
  }
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
    .help(false)
    .wrap(Math.min(120, process.stdout.columns ?? 100))
    .exitProcess(false)
    .fail((message, error) => {
      throw error ?? new UsageError(message)
    })
}

/** Examples come first: most people look for the line to copy. */
function usageOf(name: string, command: AnyCommand): string {
  const examples = command.examples.map(([line, what]) => `  ${line}\n      ${what}`).join('\n')
  const exits = command.exitCodes ? `\n\nExit codes of this verb: ${command.exitCodes}.` : ''
  const words = command.usage.toUpperCase().replace(/[<>]/g, '')
  return `Usage: vdisk ${[name, words].filter((word) => word !== '').join(' ')} [options]\n\nExamples:\n${examples}\n\n${command.describe}${exits}`
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
  if (verb === 'check' && isVdiskError(error, 'UNSUPPORTED')) return 63
  return EXIT.failed
}

declare const __VDISK_VERSION__: string | undefined
const VERSION = typeof __VDISK_VERSION__ === 'string' ? __VDISK_VERSION__ : 'development'

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (interrupt.signal.aborted) process.exit(EXIT.interrupted)
    interrupt.abort()
  })
}

// A reader that has seen enough (head, less) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.ok)
  throw error
})

// The bundle is CommonJS, where a module cannot await.
void main(process.argv.slice(2)).then((code) => {
  process.exitCode = code
})
