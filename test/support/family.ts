import path from 'node:path'
import { expect } from 'vitest'
import { type CreateOptions, createDisk, type Disk, type OpenOptions, openDisk } from '../../lib/index.ts'
import { firstDifference, patternFor } from '../model/history.ts'
import { NaiveDisk } from '../model/naive-disk.ts'
import { scratchFolder } from './temp.ts'

/** Disks in a folder of their own, each with bytes that no other has, and what they should read as. */
export class Family {
  readonly folder = scratchFolder()
  private readonly size: number
  private readonly members = new Map<string, { readonly format: string; readonly model: NaiveDisk }>()

  /** @param size bytes of each disk, some MiB */
  constructor(size: number) {
    this.size = size
  }

  at(name: string): string {
    return path.join(this.folder, name)
  }

  model(name: string): NaiveDisk {
    return this.member(name).model
  }

  async make(name: string, format: string, parent?: string, options: Partial<CreateOptions> = {}): Promise<void> {
    const below = parent === undefined ? {} : { parent: this.at(parent), parentFormat: this.member(parent).format }
    const shape = format === 'vhdx' ? { options: { block_size: '1M' } } : {}
    await using disk = await createDisk(this.at(name), { format, size: this.size, ...below, ...shape, ...options })
    const model = new NaiveDisk(this.size, parent === undefined ? undefined : this.model(parent).bytes)
    const index = this.members.size
    const source = patternFor(index, 700_000, 40 + index)
    await disk.write(index * 300_001, source)
    model.write(index * 300_001, source)
    this.members.set(name, { format, model })
  }

  async open(name: string, options: OpenOptions = {}): Promise<Disk> {
    return await openDisk(this.at(name), { format: this.member(name).format, waiting: 'defer', ...options })
  }

  /** Reads all of a disk, and fails the test if it is not what its member should hold. */
  async expectSame(disk: Pick<Disk, 'size' | 'read'>, name: string): Promise<void> {
    const found = new Uint8Array(disk.size)
    await disk.read(0, found)
    expect(firstDifference(found, this.model(name)), name).toBeUndefined()
  }

  private member(name: string): { readonly format: string; readonly model: NaiveDisk } {
    const member = this.members.get(name)
    if (!member) throw new Error(`the family has no ${name}`)
    return member
  }
}
