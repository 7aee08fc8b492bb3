import type { MultiBar, SingleBar } from 'cli-progress'
import { finish, formatSize, type Job, messageOf, type Progress, VdiskError, type Where } from '../lib/index.ts'
import { standardError, standardOutput } from './streams.ts'

/** Version of every JSON document that is printed; it rises when a field changes its meaning. */
export const SCHEMA_VERSION = 1

export interface OutputOptions {
  readonly json: boolean
  readonly quiet: boolean
  readonly color: boolean
  /** 'auto': a bar on a terminal, else nothing; 'json': a line for each step; 'none' */
  readonly progress: 'auto' | 'json' | 'none'
}

const STYLES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
} as const
export type Style = keyof typeof STYLES

/**
 * Everything that is printed. Results go to standard output, progress and messages to standard error; with --json
 * exactly one document goes to standard output, whatever happens.
 */
export class Output {
  readonly json: boolean
  private readonly options: OutputOptions
  /** a document is being written piece by piece; whoever does it says in it what goes wrong */
  begun = false

  constructor(options: OutputOptions) {
    this.options = options
    this.json = options.json
  }

  /** A line of the result, for people. */
  line(text = ''): void {
    if (!this.json) standardOutput().write(`${text}\n`)
  }

  /** The one document of a result, for programs. */
  document(content: object): void {
    if (this.json)
      standardOutput().write(`${JSON.stringify({ schemaVersion: SCHEMA_VERSION, ...content }, undefined, 2)}\n`)
  }

  /** Something worth knowing that is no result. */
  note(text: string): void {
    if (!this.options.quiet) standardError().write(`${this.paint('yellow', 'note:', standardError())} ${text}\n`)
  }

  /** An error in the three parts that help: what, where to look, what to do next. */
  error(error: unknown): void {
    const content = errorContent(error)
    if (!this.begun) this.document({ error: content })
    standardError().write(`${this.paint('red', 'vdisk:', standardError())} ${printable(content.message)}\n`)
    if (content.advice) standardError().write(`       ${printable(content.advice)}\n`)
    if (process.env.VDISK_DEBUG && error instanceof Error) standardError().write(`${error.stack}\n`)
  }

  paint(style: Style, text: string, stream: { isTTY?: boolean } = standardOutput()): string {
    if (!this.options.color || !stream.isTTY) return text
    const [open, close] = STYLES[style]
    return `\u001b[${open}m${text}\u001b[${close}m`
  }

  /** Names and values in two columns; values that are undefined are left out. */
  pairs(rows: readonly (readonly [string, string | undefined])[]): void {
    const shown = rows.filter((row): row is readonly [string, string] => row[1] !== undefined)
    const width = Math.max(...shown.map(([name]) => name.length))
    for (const [name, value] of shown) this.line(`${this.paint('dim', name.padEnd(width))}  ${printable(value)}`)
  }

  /** Runs a job and shows how far it is. */
  async follow<R>(job: Job<R>): Promise<R> {
    if (this.options.progress === 'json') {
      return await finish(job, (progress) => standardError().write(`${JSON.stringify(progress)}\n`))
    }
    const shows = this.options.progress === 'auto' && standardError().isTTY && !this.options.quiet
    if (!shows) return await finish(job)
    const bar = await newBar()
    try {
      return await finish(job, (progress) => bar.show(progress))
    } finally {
      bar.stop()
    }
  }
}

/** Both forms of a size: `1.5 GiB (1610612736 bytes)`. */
export function fullSize(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatSize(bytes)} (${bytes} bytes)`
}

/** What `--json` shows of an error, in every document. */
export interface ErrorDocument {
  readonly code: string
  readonly message: string
  readonly where: Where
  readonly advice: string | undefined
}

export function errorContent(error: unknown): ErrorDocument {
  if (error instanceof VdiskError) {
    const { code, message, where, advice } = error
    return { code, message, where, advice }
  }
  const { syscall, path: file, code } = error as NodeJS.ErrnoException
  // The system said no, to something of which no code of ours expected that.
  if (syscall !== undefined) {
    return {
      code: code === 'ENOSPC' ? 'NO_SPACE' : 'IO',
      message: `Cannot do "${syscall}"${file === undefined ? '' : ` with ${file}`}: ${messageOf(error)}`,
      where: { file },
      advice:
        code === 'ENOSPC'
          ? 'Free some room, then repeat the command.'
          : 'Look at the file, its folder and their permissions.',
    }
  }
  return {
    code: 'INTERNAL',
    message: `This should not happen: ${messageOf(error)}`,
    where: {},
    advice: 'It is a mistake in vdisk, not in your image. With VDISK_DEBUG=1 the same command tells where.',
  }
}

/** Text from a file must not reach a terminal with its control characters, line ends among them. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
}

/** A bar on standard error; the library is loaded only where somebody looks. */
async function newBar(): Promise<{ show(progress: Progress): void; stop(): void }> {
  const { default: progressLibrary } = (await import('cli-progress')) as unknown as {
    default: { SingleBar: new (options: object) => SingleBar; MultiBar: typeof MultiBar }
  }
  const bar = new progressLibrary.SingleBar({
    format: '{phase} {bar} {percentage}%  {doneText} of {totalText}  {eta_formatted} left',
    stream: standardError(),
    hideCursor: true,
    clearOnComplete: true,
    etaBuffer: 50,
    fps: 5,
  })
  let started = false
  return {
    show({ phase, done, total }) {
      const payload =
        total > 1
          ? { phase, doneText: formatSize(done), totalText: formatSize(total) }
          : { phase, doneText: '', totalText: '' }
      if (!started) bar.start(total, done, payload)
      else bar.update(done, payload)
      started = true
    },
    stop: () => bar.stop(),
  }
}
