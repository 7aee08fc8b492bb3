import { type CreateOptions, createDisk, type Disk, type OpenOptions, openDisk } from '../../lib/index.ts'
import type { Files } from '../../lib/io/files.ts'
import { patternFor } from '../model/history.ts'

/** Files of a folder that is a job's alone. */
export interface JobFiles extends Files {
  /** absolute names, in order */
  names(): string[]
  /** Makes another file of the same content. */
  duplicate(from: string, to: string): void
}

/** Who is told what a job asks of a disk. */
export interface Watch {
  /** Before it is asked for. */
  submit(offset: number, source: Uint8Array): void
  /** What was submitted last has been done. */
  done(): void
  /** A flush begins. @returns to be called when it has succeeded */
  flushing(): () => void
}

/** What a job knows of its run. */
export interface Run {
  readonly files: Files
  /** what the disk of `witnessed` was asked and promised; for a job that has one */
  readonly witness: Watch
}

/**
 * A job on files in memory, made so that every call it makes of them can fail.
 *
 * Whatever fails, each watched image is afterwards what it was before the job or what it is after it; it is sound; no
 * other files are there than before or after; and the job, done again, does what it was to do.
 */
export interface ScriptedJob {
  readonly name: string
  /** makes the files that are there before */
  scene(files: JobFiles): Promise<void>
  run(run: Run): Promise<unknown>
  /** images by name; those that are not there count as not there */
  readonly watched: readonly string[]
  /** the image that is written step by step: it may hold anything of what was asked since the last flush */
  readonly witnessed?: string
  /** it changes nothing */
  readonly reads?: boolean
}

/** Where everything lies. */
export const at = (name: string): string => `/disks/${name}`

/** The ending of a name tells the format. */
export const formatOf = (name: string): string => name.slice(name.lastIndexOf('.') + 1)

/** Shapes of images that are as small as their format allows, so that tables overflow early. */
export const SHAPE: Readonly<Record<string, { readonly size: number; readonly options: Record<string, string> }>> = {
  raw: { size: 160 << 10, options: {} },
  qcow2: { size: 160 << 10, options: { cluster_size: '1K' } },
  vhdx: { size: (1 << 20) + (64 << 10), options: { block_size: '1M' } },
  vdi: { size: 160 << 10, options: { block_size: '4K' } },
  vhd: { size: 160 << 10, options: { block_size: '4K' } },
  vmdk: { size: 160 << 10, options: { grain_size: '4K' } },
  parallels: { size: 160 << 10, options: { cluster_size: '4K' } },
}

/** How an image of a scene is made, where that is not as in SHAPE. */
export interface Making extends Partial<Omit<CreateOptions, 'files'>> {
  /** places that are written, in fractions of the disk */
  readonly data?: readonly number[]
  /** bytes written at each, default 5000 */
  readonly length?: number
}

/** Makes an image with data in it. Its bytes are its own: `fill` tells them from those of others. */
export async function make(files: Files, name: string, fill: number, making: Making = {}): Promise<void> {
  const { data = [0.02, 0.5, 0.97], length = 5000, ...options } = making
  const format = formatOf(name)
  const shape = SHAPE[format] as { size: number; options: Record<string, string> }
  const parent =
    options.parent === undefined
      ? { size: shape.size }
      : { parent: at(options.parent), parentFormat: formatOf(options.parent) }
  const common = { files, format, ...parent }
  const own = { ...options, parent: common.parent, options: options.options ?? shape.options }
  await using disk = await createDisk(at(name), { ...common, ...own })
  for (const place of data) {
    const offset = Math.floor((place * disk.size) / 256) * 256
    await disk.write(offset, patternFor(offset, Math.min(length, disk.size - offset), fill))
  }
}

/** How a disk of these files is opened. */
export function opening(files: Files, name: string, options: OpenOptions = {}): OpenOptions {
  return { files, format: formatOf(name), ...options }
}

/** Does something to an open disk, and closes it in any case. What failed first is told. */
export async function withDisk<T>(
  files: Files,
  name: string,
  work: (disk: Disk) => Promise<T>,
  options: OpenOptions = {},
): Promise<T> {
  const disk = await openDisk(at(name), opening(files, name, options))
  let result: T
  try {
    result = await work(disk)
  } catch (error) {
    await disk.close().catch(() => {})
    throw error
  }
  await disk.close()
  return result
}
