import type { Argv } from 'yargs'
import { type FileOptions, type OpenOptions, parseSize, VdiskError } from '../lib/index.ts'

/** Arguments of every verb that opens images. */
export interface OpenArguments {
  allow: string[]
  map: string[]
  locking: string
  sourceFormat: string | undefined
  parentFormat: string | undefined
  verify: string
  maxDepth: number
}

/** Declares the options by which images are found and opened. */
export function openOptions<T>(yargs: Argv<T>): Argv<T & OpenArguments> {
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
    .option('source-format', {
      alias: 'f',
      type: 'string',
      describe: 'format of the image; needed to write a raw one',
      group: 'Images:',
    })
    .option('parent-format', {
      type: 'string',
      describe: 'format of parents whose child does not name it',
      group: 'Images:',
    })
    .option('verify', {
      choices: ['strict', 'warn'],
      default: 'strict',
      describe: 'a parent that does not match is an error, or a note',
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
    }) as unknown as Argv<T & OpenArguments>
}

/** What the arguments mean to the library. Folders in VDISK_ALLOW count as allowed too. */
export function toOpenOptions(args: OpenArguments): OpenOptions {
  return {
    ...toFileOptions(args),
    format: args.sourceFormat,
    parentFormat: args.parentFormat,
    verify: args.verify as 'strict' | 'warn',
    maxDepth: args.maxDepth,
  }
}

export function toFileOptions(args: OpenArguments): FileOptions {
  const fromEnvironment = (process.env.VDISK_ALLOW ?? '').split(':').filter((folder) => folder !== '')
  return {
    allow: [...args.allow, ...fromEnvironment],
    map: args.map.map((entry) => {
      const at = entry.lastIndexOf('=')
      if (at <= 0) throw badArgument('--map', entry, 'write PREFIX=DIR, such as --map "D:\\\\vms=/mnt/vms"')
      return { prefix: entry.slice(0, at), folder: entry.slice(at + 1) }
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

/** @throws VdiskError REFUSED if the text is no size */
export function toSize(text: string, argument: string): number {
  const bytes = parseSize(text)
  if (bytes === undefined) throw badArgument(argument, text, 'write a size such as 10G, 512M or 4096')
  return bytes
}

export function badArgument(argument: string, value: string, advice: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot understand ${argument} ${value}`,
    advice: `${advice[0]?.toUpperCase()}${advice.slice(1)}.`,
  })
}
