import { expect } from 'vitest'
import type { Layer } from '../../lib/contracts/layer.ts'
import { type Disk, type OpenOptions, openDisk, promised } from '../../lib/index.ts'
import { NaiveDisk } from '../model/naive-disk.ts'
import { randomRange } from './qemu.ts'
import type { Random } from './random.ts'

export interface OurHistoryShape {
  readonly cluster: number
  readonly steps: number
  /** bytes; the disk is resized to anything up to this, in steps of 512; undefined: it keeps its size */
  readonly resizeUpTo?: number | undefined
  readonly snapshots?: boolean | undefined
  /** passed on when the image is opened */
  readonly open?: OpenOptions
}

/** An image of ours and what it should hold: the disk, and each internal snapshot. */
export class OurImage {
  readonly file: string
  readonly model: NaiveDisk
  readonly snapshots = new Map<string, Uint8Array>()
  /** ranges that were written or erased */
  readonly touched: { readonly offset: number; readonly length: number }[] = []
  private made = 0

  constructor(file: string, content: Uint8Array) {
    this.file = file
    this.model = new NaiveDisk(content.length, content)
  }

  /** Writes, erases, flushes, reopens, resizes, and keeps snapshots, as chance has it. Ends with a clean close. */
  async play(random: Random, shape: OurHistoryShape): Promise<void> {
    let disk = await this.open(shape)
    try {
      for (let step = 0; step < shape.steps; step++) {
        const kind = random.below(20)
        if (kind < 10) await this.write(disk, random, shape)
        else if (kind < 14) await this.erase(disk, random, shape)
        else if (kind === 14) await disk.flush()
        else if (kind === 15) {
          await disk.close()
          disk = await this.open(shape)
        } else if (kind === 16) await this.expectRead(disk, random, shape)
        else if (kind === 17 && shape.resizeUpTo !== undefined) await this.resize(disk, random, shape.resizeUpTo)
        else if (kind > 17 && shape.snapshots) await this.editSnapshots(disk, random)
      }
    } finally {
      await disk.close()
    }
  }

  private async open(shape: OurHistoryShape): Promise<Disk> {
    return await openDisk(this.file, { ...shape.open, writable: true })
  }

  private async write(disk: Disk, random: Random, shape: OurHistoryShape): Promise<void> {
    const { offset, length } = randomRange(random, { size: disk.size, cluster: shape.cluster })
    const source = random.bytes(length)
    this.touched.push({ offset, length })
    this.model.write(offset, source)
    await disk.write(offset, source)
  }

  private async erase(disk: Disk, random: Random, shape: OurHistoryShape): Promise<void> {
    const { offset, length } = randomRange(random, { size: disk.size, cluster: shape.cluster })
    this.touched.push({ offset, length })
    this.model.erase(offset, length)
    await disk.erase(offset, length)
  }

  private async expectRead(disk: Disk, random: Random, shape: OurHistoryShape): Promise<void> {
    const { offset, length } = randomRange(random, { size: disk.size, cluster: shape.cluster })
    const found = new Uint8Array(length)
    await disk.read(offset, found)
    expect(Buffer.compare(found, this.model.bytes.subarray(offset, offset + length)), `read at ${offset}`).toBe(0)
  }

  private async resize(disk: Disk, random: Random, upTo: number): Promise<void> {
    const size = 512 * (1 + random.below(upTo / 512))
    await disk.resize(size)
    this.model.resize(size)
  }

  private async editSnapshots(disk: Disk, random: Random): Promise<void> {
    const edit = (disk.chain.layers.at(-1) as Layer).snapshots?.edit
    if (!edit) throw new TypeError('This image cannot keep snapshots')
    const names = [...this.snapshots.keys()]
    const kind = names.length === 0 ? 0 : random.below(names.length > 4 ? 4 : 3)
    if (kind === 0) {
      const name = `state-${this.made++}`
      await promised(edit.create(name))
      this.snapshots.set(name, this.model.bytes.slice())
    } else if (kind === 1) {
      const name = random.pick(names)
      await promised(edit.revert(name))
      this.model.bytes = (this.snapshots.get(name) as Uint8Array).slice()
    } else {
      const name = random.pick(names)
      await promised(edit.delete(name))
      this.snapshots.delete(name)
    }
  }
}
