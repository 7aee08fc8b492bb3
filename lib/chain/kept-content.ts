import type { Files } from '../io/files.ts'
import type { Io } from '../io/io.ts'
import { SpillFile } from '../io/spill-file.ts'

export interface KeptContentOptions {
  /** bytes of a granule at most */
  readonly granule: number
  /** bytes in memory at most */
  readonly memory: number
  /** for what memory has no room for: bytes in a file of this folder at most */
  readonly spill: { readonly folder: string; readonly limit: number; readonly files: Files } | undefined
}

/** Room for a granule: in memory, or a place of the file. */
export type Room = 'memory' | number

/** What granules held, in memory up to a bound, and beyond it in a file. */
export class KeptContent {
  private readonly memory: number
  private readonly granule: number
  private readonly file: SpillFile | undefined
  private readonly held = new Map<number, Uint8Array | number>()
  private reserved = 0
  private closed = false

  /** @throws VdiskError where the file cannot be made */
  constructor({ granule, memory, spill }: KeptContentOptions) {
    this.granule = granule
    this.memory = memory
    this.file = spill && SpillFile.open(spill.files, spill.folder, { length: granule, limit: spill.limit })
  }

  /** bytes that are taken */
  get used(): { readonly memory: number; readonly spilled: number } {
    return { memory: this.reserved, spilled: this.closed ? 0 : (this.file?.used ?? 0) }
  }

  /** Room for a granule; undefined: there is none left. */
  reserve(): Room | undefined {
    if (this.reserved + this.granule > this.memory) return this.file?.take()
    this.reserved += this.granule
    return 'memory'
  }

  /** Gives room back that was reserved and not used. */
  giveBack(room: Room): void {
    if (room === 'memory') this.reserved -= this.granule
    else this.file?.give(room)
  }

  /** Puts content into room that was reserved for it. @throws VdiskError where the file does not take it */
  *put(granule: number, room: Room, content: Uint8Array): Io<void> {
    if (this.closed) return
    if (room === 'memory') {
      this.held.set(granule, content)
      return
    }
    yield* (this.file as SpillFile).write(room, content)
    if (!this.closed) this.held.set(granule, room)
  }

  /** Fills `target` from byte `skip` of a granule. @returns false: it is not held, or no longer */
  *read(granule: number, skip: number, target: Uint8Array): Io<boolean> {
    const held = this.held.get(granule)
    if (held === undefined) return false
    if (typeof held !== 'number') {
      target.set(held.subarray(skip, skip + target.length))
      return true
    }
    yield* (this.file as SpillFile).read(held, skip, target)
    // Somebody else may have been given the place meanwhile.
    return this.held.get(granule) === held
  }

  has(granule: number): boolean {
    return this.held.has(granule)
  }

  /** Granules first .. end-1 are not needed any more. */
  forget(first: number, end: number): void {
    if (end - first < this.held.size) for (let granule = first; granule < end; granule++) this.forgetOne(granule)
    else for (const granule of this.held.keys()) if (granule >= first && granule < end) this.forgetOne(granule)
  }

  close(): void {
    if (this.closed) return
    this.closed = true
    this.held.clear()
    this.reserved = 0
    this.file?.close()
  }

  private forgetOne(granule: number): void {
    const held = this.held.get(granule)
    if (held === undefined) return
    this.held.delete(granule)
    this.giveBack(typeof held === 'number' ? held : 'memory')
  }
}
