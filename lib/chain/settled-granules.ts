import { SparseBitmap } from '../bytes/sparse-bitmap.ts'
import type { Io } from '../io/io.ts'
import { KeptContent, type KeptContentOptions, type Room } from './kept-content.ts'

/**
 * Granules of a disk that may change: what they held is kept, or nobody wants it. A bit or two for each, in pages that come as
 * they are needed, and an entry for each whose data is kept.
 */
export class SettledGranules {
  private readonly settled = new SparseBitmap()
  /** of those, the ones that held zeros */
  private readonly zeros = new SparseBitmap()
  private readonly content: KeptContent

  /** @throws VdiskError where content cannot be kept in such a way */
  constructor(options: KeptContentOptions) {
    this.content = new KeptContent(options)
  }

  /** bytes of content that are kept */
  get used(): { readonly memory: number; readonly spilled: number } {
    return this.content.used
  }

  has(granule: number): boolean {
    return this.settled.has(granule)
  }

  /** Where the run ends that begins at `first` and is settled, or is not, throughout; at most `end`. */
  runEnd(first: number, end: number): number {
    return this.settled.runEnd(first, end)
  }

  /** Whether all of first .. end-1 are. */
  hasAll(first: number, end: number): boolean {
    return this.settled.has(first) && this.settled.runEnd(first, end) === end
  }

  /** What a settled granule held. */
  kindOf(granule: number): 'zero' | 'data' | 'released' {
    if (this.zeros.has(granule)) return 'zero'
    return this.content.has(granule) ? 'data' : 'released'
  }

  /** Where the run of granules ends that held zeros, and to which `first` belongs. */
  zerosEnd(first: number, end: number): number {
    return this.zeros.runEnd(first, end)
  }

  /** Room for the content of a granule; undefined: there is none left. */
  reserve(): Room | undefined {
    return this.content.reserve()
  }

  giveBack(room: Room): void {
    this.content.giveBack(room)
  }

  settleZeros(first: number, end: number): void {
    this.zeros.fill(first, end)
    this.settled.fill(first, end)
  }

  /** @throws VdiskError where the content cannot be written */
  *settle(granule: number, room: Room, content: Uint8Array): Io<void> {
    yield* this.content.put(granule, room, content)
    // Released meanwhile: nobody will ask for it.
    if (this.settled.has(granule)) this.content.forget(granule, granule + 1)
    this.settled.fill(granule, granule + 1)
  }

  release(first: number, end: number): void {
    this.settled.fill(first, end)
    this.zeros.fill(first, end, false)
    this.content.forget(first, end)
  }

  /** Fills `target` with what a settled granule held, from byte `skip` on. @returns false: it was released */
  *read(granule: number, skip: number, target: Uint8Array): Io<boolean> {
    if (!this.zeros.has(granule)) return yield* this.content.read(granule, skip, target)
    target.fill(0)
    return true
  }

  /** Nothing is kept any more; what is being read or written ends. */
  close(): void {
    this.settled.clear()
    this.zeros.clear()
    this.content.close()
  }
}
