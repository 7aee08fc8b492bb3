import type { Extent } from '../../contracts/extent.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { KIND, SECTOR } from './layout.ts'
import type { DmgParts } from './open.ts'
import type { Run } from './runs.ts'
import { packingOf, unpackRun } from './unpack.ts'

/** A UDIF image, which is only read. */
export class DmgLayer implements Layer {
  readonly format = 'dmg'
  readonly granularity = SECTOR
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly size: number
  readonly details: { readonly [key: string]: Json }
  readonly parts: DmgParts

  constructor(parts: DmgParts) {
    const { image, trailer, tables, runs } = parts
    this.parts = parts
    this.name = image.name
    this.store = image.store
    this.size = trailer.sectorCount * SECTOR
    const packings = new Set<string>()
    for (const { kind } of runs) {
      const packing = packingOf(kind)
      if (packing !== undefined) packings.add(packing)
    }
    this.details = {
      packing: packings.size === 0 ? 'none' : [...packings].join(', '),
      parts: tables.map(({ name }) => name).filter((name) => name !== ''),
    }
  }

  map(offset: number, length: number): Io<Extent> {
    return just(this.extent(offset, length))
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  private extent(offset: number, length: number): Extent {
    const { runs, end } = this.parts
    const index = runs.find(offset)
    const run = index < 0 ? undefined : runs.run(index)
    if (!run || offset >= run.offset + run.length) {
      const next = index + 1 < runs.count ? runs.run(index + 1).offset : this.size
      return { kind: 'zero', length: Math.min(length, next - offset) }
    }
    const skip = offset - run.offset
    const rest = Math.min(length, run.length - skip)
    if (run.kind === KIND.zeros || run.kind === KIND.ignored) return { kind: 'zero', length: rest }
    if (run.at + run.storedLength > end) throw this.pastEnd(run)
    if (run.kind === KIND.plain) return { kind: 'data', length: rest, store: this.store, at: run.at + skip }
    return { kind: 'packed', length: rest, packed: this.packed(run), skip }
  }

  private packed(run: Run): Extract<Extent, { kind: 'packed' }>['packed'] {
    const { at, storedLength, length } = run
    const { store, name } = this
    return { store, at, storedLength, length, unpack: (stored) => unpackRun(name, run, stored) }
  }

  private pastEnd({ at, offset }: Run): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.name}: what lies at ${offset} of its disk would be past the end of the file`,
      where: { file: this.name, structure: 'run', at, offset, section: 'BLKXChunkEntry' },
      advice: 'Get the image again: this copy is damaged.',
    })
  }
}
