import fs from 'node:fs'
import path from 'node:path'
import type { Argv } from 'yargs'
import { drivers, type FileOptions, type OpenOptions, parseSize } from '../lib/index.ts'
import { UsageError } from './usage-error.ts'

/** Arguments of every verb that names files. */
export interface FileArguments {
  allow: string[]
  map: string[]
  locking: string
  parentFormat: string | undefined
  maxDepth: number
}

/** Arguments of every verb that opens images. */
export interface OpenArguments extends FileArguments {
  sourceFormat: string | undefined
  verify: string
  /** only of verbs that only read */
  salvage?: boolean | undefined
  /** only where the verb has it; of a verb that reads it means checksums, whatever else it may mean there */
  force?: boolean | undefined
}

const FORMATS: readonly string[] = drivers.map(({ name }) => name)

/** Declares the options by which images are found. */
export function fileOptions<T>(yargs: Argv<T>): Argv<T & FileArguments> {
  return yargs
    .option('allow', {
      type: 'string',
      array: true,
      nargs: 1,
      default: [],
      describe: 'folder that parents and data files may lie in, besides the image\u2019s own',
      group: 'Images:',
    })
    .option('map', {
      type: 'string',
      array: true,
      nargs: 1,
      default: [],
      describe: 'PREFIX=DIR: where files of a Windows path are here',
      group: 'Images:',
    })
    .option('parent-format', {
      type: 'string',
      choices: FORMATS,
      describe: 'format of parents whose child does not name it',
      group: 'Images:',
    })
    .option('locking', {
      choices: ['on', 'off'],
      default: 'on',
      describe: 'respect other programs that use the image',
      group: 'Images:',
    })
    .option('max-depth', {
      type: 'number',
      default: 64,
      describe: 'layers at most',
      group: 'Images:',
    }) as unknown as Argv<T & FileArguments>
}

/** Declares the options by which images are found and opened. */
export function openOptions<T>(yargs: Argv<T>): Argv<T & OpenArguments> {
  return fileOptions(yargs)
    .option('source-format', {
      alias: 'f',
      type: 'string',
      choices: FORMATS,
      describe: 'format of the image; needed to write a raw one',
      group: 'Images:',
    })
    .option('verify', {
      choices: ['strict', 'warn'],
      default: 'strict',
      describe: 'a parent that does not match is an error, or a note',
      group: 'Images:',
    }) as unknown as Argv<T & OpenArguments>
}

/** What `--force` means to every verb that reads, in words that can follow others. */
export const BELIEVE = 'believe an image of which a checksum is wrong, and nothing else'

/** The same, for verbs that only read. */
export function readOptions<T>(yargs: Argv<T>): Argv<T & OpenArguments & { salvage: boolean; force: boolean }> {
  return openOptions(yargs)
    .option('salvage', {
      type: 'boolean',
      default: false,
      describe: 'open it all the same where what is damaged is not needed to read the disk, and tell what',
      group: 'Images:',
    })
    .option('force', {
      type: 'boolean',
      default: false,
      describe: BELIEVE,
    }) as unknown as Argv<T & OpenArguments & { salvage: boolean; force: boolean }>
}

/** What the arguments mean to the library. Folders in VDISK_ALLOW count as allowed too. */
export function toOpenOptions(args: OpenArguments): OpenOptions {
  return {
    ...toFileOptions(args),
    format: args.sourceFormat,
    parentFormat: args.parentFormat,
    verify: args.verify as 'strict' | 'warn',
    salvage: args.salvage ?? false,
    ignoreChecksums: args.force ?? false,
  }
}

export function toFileOptions(args: FileArguments): FileOptions & { allow: string[]; maxDepth: number } {
  const fromEnvironment = (process.env.VDISK_ALLOW ?? '').split(':').filter((folder) => folder !== '')
  for (const folder of args.allow) mustBeFolder('--allow', folder, folder)
  return {
    maxDepth: args.maxDepth,
    allow: [...args.allow, ...fromEnvironment],
    map: args.map.map((entry) => {
      const at = entry.lastIndexOf('=')
      if (at <= 0) throw badArgument('--map', entry, 'write PREFIX=DIR, such as --map "D:\\vms=/mnt/vms"')
      const folder = entry.slice(at + 1)
      mustBeFolder('--map', entry, folder)
      return { prefix: entry.slice(0, at), folder }
    }),
    locking: args.locking === 'on',
  }
}

/** `-o name=value`, repeated or separated by commas as in qemu-img. */
export function formatOptions<T>(yargs: Argv<T>): Argv<T & { option: string[] }> {
  return yargs.option('option', {
    alias: 'o',
    type: 'string',
    array: true,
    nargs: 1,
    default: [],
    describe: 'NAME=VALUE: how the new image is made',
  }) as unknown as Argv<T & { option: string[] }>
}

export function toFormatOptions(entries: readonly string[]): Record<string, string> {
  const options: Record<string, string> = Object.create(null)
  for (const entry of entries.flatMap((one) => one.split(','))) {
    const at = entry.indexOf('=')
    if (at <= 0) throw badArgument('-o', entry, 'write NAME=VALUE, such as -o cluster_size=128K')
    options[entry.slice(0, at)] = entry.slice(at + 1)
  }
  return options
}

/** @throws UsageError if the text is no size */
export function toSize(text: string, argument: string): number {
  const bytes = parseSize(text)
  if (bytes === undefined) {
    throw badArgument(argument, text, 'write a whole number of bytes below 2^53, such as 10G, 1.5T, 512M or 4096')
  }
  return bytes
}

export function badArgument(argument: string, value: string, advice: string): UsageError {
  return new UsageError(`Cannot understand ${argument} "${value}"`, `${advice[0]?.toUpperCase()}${advice.slice(1)}.`)
}

/**
 * What to know where a parent lies in another folder than its child: the user has named both now, but later the child
 * alone will name its parent, and an image is not believed that leads out of its folder.
 */
export function noteOnFolder(child: string, parent: string, args: FileArguments): string | undefined {
  const folder = path.dirname(fs.realpathSync(parent))
  const known = [path.dirname(fs.realpathSync(child)), ...toFileOptions(args).allow]
  if (known.some((one) => !path.relative(path.resolve(one), folder).startsWith('..'))) return undefined
  return `${parent} lies in another folder than ${child}: from now on name it with --allow ${folder}, or in VDISK_ALLOW`
}

function mustBeFolder(argument: string, value: string, folder: string): void {
  if (fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return
  throw new UsageError(
    `Cannot use ${argument} "${value}": there is no folder "${folder}"`,
    'Name a folder that exists.',
  )
}
