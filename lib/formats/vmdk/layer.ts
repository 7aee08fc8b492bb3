import type { Extent } from '../../contracts/extent.ts'
import type { Identity, MergedMark, ParentLink } from '../../contracts/identity.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { ExtentFile } from './extent-file.ts'
import type { VmdkParts } from './parts.ts'

/** Granule of an image whose files are not looked at. */
const UNKNOWN_GRANULE = 65536

/** A VMDK image for reading. */
export class VmdkLayer implements Layer {
  readonly format = 'vmdk'
  readonly name: string
  readonly store: ByteStore
  readonly merged: MergedMark | undefined = undefined
  protected readonly parts: VmdkParts
  private last: ExtentFile | undefined

  constructor(parts: VmdkParts) {
    this.parts = parts
    this.name = parts.image.name
    this.store = parts.image.store
  }

  get size(): number {
    return this.parts.size
  }

  get granularity(): number {
    const { extents } = this.parts
    return extents.length === 0 ? UNKNOWN_GRANULE : Math.max(...extents.map((extent) => extent.granularity))
  }

  get identity(): Identity | undefined {
    const { cid } = this.parts.descriptor
    return cid === undefined ? undefined : { kind: 'cid', value: cid, current: true }
  }

  get parent(): ParentLink | undefined {
    const { parentCid, parentHint } = this.parts.descriptor
    if (parentCid === undefined) return undefined
    return {
      references: parentHint === undefined ? [] : [parentHint],
      format: 'vmdk',
      expects: [{ kind: 'cid', value: parentCid, current: true }],
      record: undefined,
      merging: false,
      replaced: undefined,
    }
  }

  get details(): { readonly [key: string]: Json } {
    const { descriptor, extents } = this.parts
    const database = Object.fromEntries([...descriptor.database()].map(([key, value]) => [key.slice(4), value]))
    return {
      subformat: descriptor.get('createType') ?? '',
      files: descriptor.extents.map(({ access, sectors, type, file }) => ({
        access,
        type,
        size: sectors * 512,
        file: file === undefined ? null : descriptor.decode(file),
      })),
      ...extents[0]?.details,
      database,
    }
  }

  /** For the check: it reads tables past what `map` shows. */
  get structure(): VmdkParts {
    return this.parts
  }

  *map(offset: number, length: number): Io<Extent> {
    const extent = this.extentAt(offset)
    return yield* extent.map(offset, Math.min(length, extent.start + extent.length - offset))
  }

  *close(): Io<void> {
    let failure: unknown
    for (const close of [
      ...this.parts.extents.map((extent) => () => extent.close()),
      () => settle(this.store.close()),
    ]) {
      try {
        yield* close()
      } catch (error) {
        failure ??= error
      }
    }
    if (failure) throw failure
  }

  /** The part of the disk that holds `offset`. */
  protected extentAt(offset: number): ExtentFile {
    const { last } = this
    if (last && offset >= last.start && offset < last.start + last.length) return last
    const { extents } = this.parts
    let [low, high] = [0, extents.length]
    while (low < high - 1) {
      const middle = (low + high) >>> 1
      if ((extents[middle] as ExtentFile).start <= offset) low = middle
      else high = middle
    }
    const found = extents[low]
    if (!found)
      throw new VdiskError('REFUSED', { message: `Cannot read ${this.name}: only what it says of itself was opened` })
    this.last = found
    return found
  }
}
