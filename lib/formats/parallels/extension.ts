import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import { md5 } from '../../bytes/md5.ts'
import type { BitmapInfo, StoredBitmaps } from '../../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, type Spot, spotIn, tooLarge } from './damage.ts'
import type { Header } from './header.ts'
import {
  bitmapHead,
  EXTENSION_MAGIC,
  extensionHead,
  FEATURE,
  FEATURE_FLAG,
  featureHead,
  IN_USE,
  L1_ONES,
  L1_ZEROS,
  LIMIT,
  SECTOR,
} from './layout.ts'

/** A feature that is not known: it is kept, or dropped, as its flags say. */
export interface OtherFeature {
  readonly magic: bigint
  readonly flags: bigint
  readonly data: Uint8Array
}

/** A dirty bitmap as the extension describes it. ["Dirty bitmaps feature"] */
export interface BitmapFeature {
  readonly flags: bigint
  readonly id: string
  /** bytes of the disk */
  readonly size: number
  /** bytes for each bit */
  readonly granularity: number
  /** L1 table: a place in sectors, or L1_ZEROS, or L1_ONES */
  readonly entries: readonly bigint[]
}

/** What stands in the format extension of an image. ["Format Extension"] */
export class Extension implements StoredBitmaps {
  readonly bitmaps: readonly BitmapFeature[]
  readonly others: readonly OtherFeature[]
  private readonly header: Header
  private readonly store: ByteStore

  private constructor(header: Header, store: ByteStore, features: readonly (BitmapFeature | OtherFeature)[]) {
    this.header = header
    this.store = store
    this.bitmaps = features.filter((feature) => 'granularity' in feature)
    this.others = features.filter((feature) => 'data' in feature)
  }

  /** @returns undefined if there is none. @throws VdiskError CORRUPT, LIMIT_EXCEEDED */
  static *read(header: Header, store: ByteStore): Io<Extension | undefined> {
    const { extensionAt: at, clusterSize, file } = header
    if (at === 0) return undefined
    const spot = { structure: 'format extension', at, section: 'Format Extension' }
    if (at < header.dataAt || at + clusterSize > (yield* settle(store.size()))) {
      throw corrupt(file, `its format extension lies at ${at}, where no cluster can be`, spot)
    }
    const cluster = new Uint8Array(clusterSize)
    yield* settle(store.read(at, cluster))
    const { magic, checksum } = extensionHead.decode(cluster)
    if (magic !== EXTENSION_MAGIC) throw corrupt(file, 'its format extension does not begin with its magic', spot)
    if (Buffer.compare(checksum, md5(cluster.subarray(extensionHead.size))) !== 0) {
      throw corrupt(file, 'the checksum of its format extension is wrong', spot)
    }
    return new Extension(header, store, [...featuresIn(cluster, file, spot)])
  }

  /** A feature that keeps those who do not know it from changing the file. */
  get unknownNecessary(): OtherFeature | undefined {
    return this.others.find(({ flags }) => (flags & FEATURE_FLAG.necessary) !== 0n)
  }

  /** Features that are not known, and kept all the same. They may have clusters that nobody else knows of. */
  get transit(): readonly OtherFeature[] {
    return this.others.filter(({ flags }) => (flags & FEATURE_FLAG.transit) !== 0n)
  }

  /** Whether all that is in it may stay while the file is written. */
  get mayStay(): boolean {
    return this.bitmaps.length === 0 && this.transit.length === this.others.length
  }

  /** Places of the clusters that belong to it: its own, and those of bitmaps. */
  get places(): number[] {
    return [this.header.extensionAt, ...this.bitmaps.flatMap(({ entries }) => placesIn(entries))]
  }

  /** Only who closes a file says that its bitmaps are true; who does not know them leaves a zero. ["Header", in_use] */
  get isTrusted(): boolean {
    return this.header.fields.inUse === IN_USE.closed
  }

  list(): BitmapInfo[] {
    return this.bitmaps.map(({ id, granularity, size }) => ({
      name: id,
      granularity,
      enabled: true,
      consistent: this.isTrusted && size === this.header.size,
    }))
  }

  *read(name: string): Io<Bitmap> {
    const bitmap = this.bitmaps.find(({ id }) => id === name)
    const { file } = this.header
    if (!bitmap) {
      const message = `Cannot find dirty bitmap ${name.slice(0, 60)} in ${file}: it has none of that name`
      throw new VdiskError('NOT_FOUND', { message, where: { file } })
    }
    const spot = { structure: 'dirty bitmap', section: 'Dirty bitmaps feature' }
    if (!this.isTrusted || bitmap.size !== this.header.size) {
      throw corrupt(file, `dirty bitmap ${name} was not saved by who wrote last`, spot, 'Make a full backup.')
    }
    return yield* this.bitsOf(bitmap)
  }

  /** @throws VdiskError LIMIT_EXCEEDED, CORRUPT */
  *bitsOf({ size, granularity, entries, id }: BitmapFeature): Io<Bitmap> {
    const { file, clusterSize } = this.header
    const spot: Spot = { structure: 'dirty bitmap', section: 'Dirty bitmaps feature' }
    const bits = Bitmap.empty(Math.min(ceilDiv(size, granularity), LIMIT.bitmapBytes * 8 + 8))
    if (bits.bytes.length > LIMIT.bitmapBytes) throw tooLarge(file, `dirty bitmap ${id} is too large to be read`, spot)
    const end = yield* settle(this.store.size())
    for (let i = 0; i * clusterSize < bits.bytes.length; i++) {
      const part = bits.bytes.subarray(i * clusterSize, (i + 1) * clusterSize)
      const entry = entries[i] ?? L1_ZEROS
      if (entry === L1_ONES) part.fill(0xff)
      if (!isPlace(entry)) continue
      const at = Number(entry) * SECTOR
      if (at < this.header.dataAt || at + part.length > end) {
        throw corrupt(file, `a part of dirty bitmap ${id} lies at ${at}, where no cluster can be`, spot)
      }
      yield* settle(this.store.read(at, part))
    }
    return bits
  }
}

/** The extension of a file that can be written; undefined: there is none, or none that would be kept. */
export function* extensionToKeep(header: Header, store: ByteStore): Io<Extension | undefined> {
  let extension: Extension | undefined
  try {
    extension = yield* Extension.read(header, store)
  } catch (error) {
    // What cannot be loaded is dropped, the specification says; that it must not be, nobody can tell any more.
    if (isVdiskError(error, 'CORRUPT') || isVdiskError(error, 'LIMIT_EXCEEDED')) return undefined
    throw error
  }
  const necessary = extension?.unknownNecessary
  if (!necessary) return extension
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${header.file}: it has a feature (0x${necessary.magic.toString(16)}) that whoever writes must know`,
    where: spotIn(header.file, { structure: 'format extension', at: header.extensionAt, section: 'Format Extension' }),
    advice: 'It can be read, and converted: vdisk convert IMAGE COPY --format parallels',
  })
}

/** The bytes of an extension cluster. @returns undefined if the features do not fit */
export function encodeExtension(
  clusterSize: number,
  features: readonly (BitmapFeature | OtherFeature)[],
): Uint8Array | undefined {
  const cluster = new Uint8Array(clusterSize)
  let at = extensionHead.size
  for (const feature of features) {
    const data = 'data' in feature ? feature.data : encodeBitmap(feature)
    const magic = 'data' in feature ? feature.magic : FEATURE.bitmap
    // The end is a head too.
    if (at + featureHead.size + roundUp(data.length, 8) + featureHead.size > clusterSize) return undefined
    featureHead.patch(cluster.subarray(at), { magic, flags: feature.flags, dataLength: data.length })
    cluster.set(data, at + featureHead.size)
    at += featureHead.size + roundUp(data.length, 8)
  }
  const checksum = md5(cluster.subarray(extensionHead.size))
  extensionHead.patch(cluster, { magic: EXTENSION_MAGIC, checksum })
  return cluster
}

/** Places in the file that an L1 table names. */
export function placesIn(entries: readonly bigint[]): number[] {
  return entries.filter(isPlace).map((entry) => Number(entry) * SECTOR)
}

function isPlace(entry: bigint): boolean {
  return entry !== L1_ZEROS && entry !== L1_ONES
}

function* featuresIn(cluster: Uint8Array, file: string, spot: Spot): Generator<BitmapFeature | OtherFeature> {
  for (let at = extensionHead.size, count = 0; ; count++) {
    if (at + featureHead.size > cluster.length) throw corrupt(file, 'its format extension has no end', spot)
    const { magic, flags, dataLength } = featureHead.decode(cluster.subarray(at))
    if (magic === FEATURE.end) return
    const start = at + featureHead.size
    if (start + dataLength > cluster.length) throw corrupt(file, 'a feature of its format extension has no end', spot)
    if (count === LIMIT.bitmaps) throw tooLarge(file, `its format extension has more than ${count} features`, spot)
    const data = cluster.slice(start, start + dataLength)
    yield magic === FEATURE.bitmap ? decodeBitmap(flags, data, file, spot) : { magic, flags, data }
    at = start + roundUp(dataLength, 8)
  }
}

function decodeBitmap(flags: bigint, data: Uint8Array, file: string, spot: Spot): BitmapFeature {
  const { sectors, id, granularity, entryCount } = bitmapHead.decode(data)
  if (granularity === 0 || (granularity & (granularity - 1)) !== 0 || !Number.isSafeInteger(sectors * SECTOR)) {
    throw corrupt(file, `a dirty bitmap has bits for ${granularity} sectors each`, spot)
  }
  if (bitmapHead.size + entryCount * 8 > data.length) throw corrupt(file, 'a dirty bitmap has no end', spot)
  const view = new DataView(data.buffer, data.byteOffset + bitmapHead.size, entryCount * 8)
  const entries = Array.from({ length: entryCount }, (_, i) => view.getBigUint64(i * 8, true))
  return { flags, id, size: sectors * SECTOR, granularity: granularity * SECTOR, entries }
}

function encodeBitmap({ id, size, granularity, entries }: BitmapFeature): Uint8Array {
  const data = new Uint8Array(bitmapHead.size + entries.length * 8)
  bitmapHead.patch(data, {
    sectors: size / SECTOR,
    id,
    granularity: granularity / SECTOR,
    entryCount: entries.length,
  })
  const view = new DataView(data.buffer, bitmapHead.size)
  for (const [i, entry] of entries.entries()) view.setBigUint64(i * 8, entry, true)
  return data
}
