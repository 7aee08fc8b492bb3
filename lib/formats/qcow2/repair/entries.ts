import { COMPRESSED, COPIED, decodeCompressed, offsetOf, READS_AS_ZERO, RESERVED_HIGH } from '../layout.ts'

/** An L2 entry in its halves; the last two are zero where entries are not extended. ["L2 table entry"] */
export interface Entry {
  readonly high: number
  readonly low: number
  /** subclusters that read as zero */
  readonly zero: number
  readonly allocated: number
}

const EMPTY: Entry = { high: 0, low: 0, zero: 0, allocated: 0 }
const CLEARED = 'bits that it cannot have are cleared'

/** What an entry is judged by. */
export interface Surroundings {
  readonly version: 2 | 3
  readonly extended: boolean
  readonly hasDataFile: boolean
  readonly clusterBits: number
  /** bytes on the disk that the entry describes */
  readonly guestOffset: number
  /** whether guest data can lie in these clusters: in the file, behind the header, and no table there */
  isRoom(at: number, length: number): boolean
  /** whether the place that `placeMeant` tells counts as in use */
  readonly isCounted: boolean
}

export interface Mended extends Entry {
  /** what was done, as the end of a sentence */
  readonly done: string
  /** whether the guest may read something else than it wrote */
  readonly doubtful: boolean
}

/** The place that an entry names, without the bits that no place has: bytes in the file, 0: none. */
export function placeMeant({ high, low }: Entry, clusterBits: number): number {
  const at = offsetOf(high, low)
  return at - (at % 2 ** clusterBits)
}

/**
 * What an entry becomes that cannot be right.
 *
 * Bits that no entry may have are cleared, if what then remains can be the place of guest data and counts as in use: a
 * place that is free holds what somebody has given up. Else the cluster reads as zero: its own bytes are out of reach, and
 * those of the parent, which it hid, are certainly not what the guest wrote. Version 2 has no word for that: there the
 * entry goes, and a parent shows.
 */
export function mendEntry(entry: Entry, of: Surroundings): Mended {
  if (of.hasDataFile) return inDataFile(entry, of)
  const { high } = entry
  if (high & COMPRESSED) {
    const plain = { ...entry, high: (high & ~COMPRESSED) >>> 0 }
    // A compressed cluster is never written in place. If without that flag the entry is all right, the flag is what is wrong.
    if (high & COPIED && standsAsData(plain, of)) {
      return {
        ...plain,
        zero: certainlyZero(entry),
        done: 'it is taken for one that is not compressed',
        doubtful: true,
      }
    }
    return mendCompressed(entry, of)
  }
  return of.extended ? mendExtended(entry, of) : mendStandard(entry, of)
}

/** Data of a data file has one place where it can be. ["External data file bit"] */
function inDataFile(entry: Entry, of: Surroundings): Mended {
  const zeroFlag = of.extended ? 0 : entry.low & READS_AS_ZERO
  const { high, low } = halves(of.guestOffset, COPIED)
  const allocated = entry.high & COMPRESSED ? 0xffffffff : entry.allocated
  const zero = entry.high & COMPRESSED ? 0 : certainlyZero(entry)
  const bits = of.extended ? { zero, allocated } : { zero: 0, allocated: 0 }
  return { high, low: (low | zeroFlag) >>> 0, ...bits, done: 'it names the place that it must have', doubtful: true }
}

function mendCompressed(entry: Entry, of: Surroundings): Mended {
  const { at, storedLength } = decodeCompressed(entry.high, entry.low, of.clusterBits)
  if (!of.isRoom(at, storedLength)) return asZero(of)
  const high = (entry.high & ~COPIED) >>> 0
  return { high, low: entry.low, zero: 0, allocated: 0, done: CLEARED, doubtful: false }
}

function mendStandard(entry: Entry, of: Surroundings): Mended {
  if (entry.low & READS_AS_ZERO && of.version === 3) {
    return { ...asZero(of), done: 'it reads as zero, as it did, and has no place', doubtful: false }
  }
  if (offsetOf(entry.high, entry.low) === 0) return { ...EMPTY, done: CLEARED, doubtful: true }
  const place = placeOf(entry, of)
  if (place === undefined) return asZero(of)
  return { ...place, zero: 0, allocated: 0, done: CLEARED, doubtful: true }
}

function mendExtended(entry: Entry, of: Surroundings): Mended {
  const place = placeOf(entry, of)
  const zero = certainlyZero(entry)
  if (place) return { ...place, zero, allocated: entry.allocated, done: CLEARED, doubtful: true }
  if (entry.allocated === 0) {
    // It says of no part that it has bytes.
    return { ...EMPTY, zero, done: CLEARED, doubtful: true }
  }
  return { ...asZero(of), zero: (entry.zero | entry.allocated) >>> 0 }
}

/** The entry without what it cannot have, if that leads to a place that can be meant. */
function placeOf(entry: Entry, of: Surroundings): Pick<Entry, 'high' | 'low'> | undefined {
  const at = placeMeant(entry, of.clusterBits)
  return at !== 0 && of.isCounted && of.isRoom(at, 1) ? halves(at, entry.high & COPIED) : undefined
}

/** The subclusters that are zero. What is both allocated and zero has bytes: they may be right. */
function certainlyZero({ zero, allocated }: Entry): number {
  return (zero & ~allocated) >>> 0
}

function standsAsData(entry: Entry, of: Surroundings): boolean {
  const isClean = (entry.high & RESERVED_HIGH) === 0 && (entry.low & 0x1ff) === 0
  return (
    isClean && offsetOf(entry.high, entry.low) === placeMeant(entry, of.clusterBits) && placeOf(entry, of) !== undefined
  )
}

function asZero(of: Surroundings): Mended {
  if (of.version === 2) return { ...EMPTY, done: 'it is taken away', doubtful: true }
  const done = 'it reads as zero now'
  return of.extended
    ? { ...EMPTY, zero: 0xffffffff, done, doubtful: true }
    : { ...EMPTY, low: READS_AS_ZERO, done, doubtful: true }
}

function halves(at: number, flags: number): Pick<Entry, 'high' | 'low'> {
  return { high: (Math.floor(at / 2 ** 32) | flags) >>> 0, low: at % 2 ** 32 }
}
