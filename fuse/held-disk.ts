import fs from 'node:fs'
import path from 'node:path'
import { type Chain, type Disk, fileIdOf, LayerPool, type OpenOptions, VdiskError } from '../lib/index.ts'
import { type Mode, type ModeOptions, type Opened, openInMode } from './mode.ts'
import { type HeldFile, isServed, readRecords } from './records.ts'

/** An image of a mount: the open disk, and how it was opened. */
export class HeldDisk {
  /** absolute, as the user named it */
  readonly image: string
  readonly mode: Mode
  /** the file that takes what is written, where that is not the image and stays; absolute */
  readonly overlay: string | undefined
  readonly disk: Disk
  /** what should be known, in sentences */
  readonly notes: readonly string[]
  /** by which other images and their parents are found */
  readonly options: OpenOptions
  private readonly isNew: boolean

  private constructor(image: string, opened: Opened, options: OpenOptions) {
    this.image = image
    this.mode = opened.mode
    this.overlay = opened.overlay
    this.isNew = opened.isNew
    this.disk = opened.disk
    this.notes = [...opened.disk.notes, ...opened.notes]
    this.options = options
  }

  /**
   * Opens the images of a mount, all or none.
   *
   * @throws VdiskError IN_USE naming the mount that has one of them already
   */
  static async openAll(images: readonly string[], options: ModeOptions): Promise<HeldDisk[]> {
    assertDistinct(images)
    const held: HeldDisk[] = []
    const pool = new LayerPool()
    try {
      for (const given of images) {
        const image = path.resolve(given)
        const overlay = options.overlay === undefined ? undefined : path.resolve(options.overlay)
        const isWritten = !options.readOnly && overlay === undefined && !options.temporary
        if (options.locking !== false) {
          assertNotMounted(image, isWritten)
          if (overlay !== undefined) assertNotMounted(overlay, true)
        }
        held.push(new HeldDisk(image, await openInMode(image, { ...options, overlay, pool }), options))
      }
      return held
    } catch (error) {
      for (const one of held) await one.discard()
      throw error
    }
  }

  get chain(): Chain {
    return this.disk.chain
  }

  get readOnly(): boolean {
    return !this.disk.writable
  }

  /** Every file of the chain, base first. A temporary one that has no name any more is none. */
  files(): HeldFile[] {
    const { layers } = this.chain
    const files = layers.map((layer, depth) => ({
      file: layer.name,
      id: layer.store.fileId?.() ?? '',
      written: !this.readOnly && depth === layers.length - 1,
    }))
    return this.mode === 'temporary' ? files.slice(0, -1) : files
  }

  /** Lets the disk go as if it had never been opened: nobody has seen it. */
  async discard(): Promise<void> {
    await this.disk.close().catch(() => {})
    if (this.isNew && this.overlay !== undefined) fs.rmSync(this.overlay, { force: true })
  }
}

function assertDistinct(images: readonly string[]): void {
  const seen = new Set<string>()
  for (const image of images) {
    const id = fileIdOf(image)
    if (id !== undefined && seen.has(id)) {
      throw new VdiskError('REFUSED', {
        message: `Cannot mount ${image} twice in one place`,
        where: { file: image },
        advice: 'Name each image once.',
      })
    }
    if (id !== undefined) seen.add(id)
  }
}

/**
 * Locks would say no as well, but not where the image is mounted; and where there are no native calls there are no
 * locks.
 */
function assertNotMounted(image: string, isWritten: boolean): void {
  const id = fileIdOf(image)
  if (id === undefined) return
  for (const record of readRecords().filter(isServed)) {
    const file = record.images.flatMap(({ files }) => files).find((one) => one.id === id)
    if (!file || !(file.written || isWritten)) continue
    throw new VdiskError('IN_USE', {
      message: `Cannot mount ${image}: it is ${file.written ? 'mounted' : 'part of what is mounted'} at ${record.mountpoint} by process ${record.pid}`,
      where: { file: image },
      advice: `Use it there, or end that first: vdisk unmount ${record.mountpoint}`,
    })
  }
}
