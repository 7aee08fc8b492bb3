import { VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore, FileStamp } from '../io/store.ts'
import type { Guard } from './guard.ts'
import {
  checksumOf,
  consumerRecord,
  LIMIT,
  MAGIC,
  PAGE,
  PLACE,
  STATES,
  type State,
  sealed,
  shrinkRecord,
  superblock,
  VERSION,
} from './layout.ts'

/** Who asks what has changed: a backup program by its name, and where it stands. */
export interface Consumer {
  readonly name: string
  /** epoch of its last token */
  readonly epoch: number
  /** bytes of the disk then */
  readonly size: number
  /** milliseconds since 1970 */
  readonly at: number
}

export interface Shrink {
  readonly epoch: number
  /** bytes that were left of the disk */
  readonly size: number
}

/** What the superblock of a tracking sidecar says. */
export interface Facts {
  readonly trackId: string
  /** bytes of the disk that share a counter */
  readonly granularity: number
  readonly state: State
  /** of changes that are made now */
  readonly epoch: number
  /** the epoch in which this trackId began; epochs only rise, whatever becomes of it */
  readonly firstEpoch: number
  /** both rising: what a later one says at least as strongly an earlier one need not */
  readonly shrinks: readonly Shrink[]
  /** bytes */
  readonly diskSize: number
  /** milliseconds since 1970 */
  readonly began: number
  /** the image's file when nobody wrote to it any more; undefined: not known */
  readonly stamp: FileStamp | undefined
  /** digests of who the content is, and who it is once it was written to; empty: it has no identity */
  readonly content: Uint8Array
  readonly next: Uint8Array
  /** the sidecar's own file */
  readonly own: { readonly inode: bigint; readonly born: bigint }
  readonly consumers: readonly Consumer[]
  /** what cannot be tracked must not be written */
  readonly required: boolean
  /** why tracking had to begin anew, or what was lost */
  readonly reason: string
  /** undefined: the image has none */
  readonly guard: Guard | undefined
}

export const NO_IDENTITY = new Uint8Array(32)

/** The two copies of the superblock. What is written is durable, and the copy before is whole until then. */
export class Superblock {
  facts: Facts
  readonly store: ByteStore
  private sequence: number
  /** the copy that may be written over */
  private older: 0 | 1

  private constructor(store: ByteStore, facts: Facts, sequence: number, older: 0 | 1) {
    this.store = store
    this.facts = facts
    this.sequence = sequence
    this.older = older
  }

  /** For a sidecar that is made: nothing is written yet. */
  static new(store: ByteStore, facts: Facts): Superblock {
    return new Superblock(store, facts, 0, 0)
  }

  /** @throws VdiskError CORRUPT if neither copy is whole; UNSUPPORTED for a later version */
  static *open(store: ByteStore): Io<Superblock> {
    const size = yield* settle(store.size())
    let best: Superblock | undefined
    for (const copy of [0, 1] as const) {
      const page = new Uint8Array(PAGE)
      const at = PLACE.superblock + copy * PAGE
      if (size < at + PAGE) break
      yield* settle(store.read(at, page))
      const found = decode(store, page)
      if (!found || (best && best.sequence > found.sequence)) continue
      best = new Superblock(store, found.facts, found.sequence, copy === 0 ? 1 : 0)
    }
    if (best) return best
    throw new VdiskError('CORRUPT', {
      message: `Cannot use ${store.name}: neither copy of its superblock is whole`,
      where: { file: store.name, structure: 'tracking superblock' },
      advice: 'Begin tracking anew: vdisk track enable IMAGE --anew',
    })
  }

  /** Changes facts, durably. */
  *write(changes: Partial<Facts>): Io<void> {
    const facts = { ...this.facts, ...changes }
    yield* settle(this.store.write(PLACE.superblock + this.older * PAGE, encode(facts, this.sequence + 1)))
    yield* settle(this.store.flush())
    this.facts = facts
    this.sequence++
    this.older = this.older === 0 ? 1 : 0
  }
}

function encode(facts: Facts, sequence: number): Uint8Array {
  const { stamp, own, shrinks, consumers, guard } = facts
  const reason = cut(facts.reason, LIMIT.reason)
  return sealed(
    superblock.encode({
      magic: MAGIC,
      version: VERSION,
      checksum: 0,
      sequence,
      trackId: facts.trackId,
      granularity: facts.granularity,
      state: STATES.indexOf(facts.state),
      epoch: facts.epoch,
      firstEpoch: facts.firstEpoch,
      shrinkCount: shrinks.length,
      diskSize: facts.diskSize,
      began: facts.began,
      stampSize: stamp?.size ?? 0,
      stampModified: stamp?.modified ?? 0n,
      stampChanged: stamp?.changed ?? 0n,
      stampInode: stamp?.inode ?? 0n,
      stampBorn: stamp?.born ?? 0n,
      content: facts.content,
      next: facts.next,
      ownInode: own.inode,
      ownBorn: own.born,
      consumerCount: consumers.length,
      required: facts.required ? 1 : 0,
      guardGranularity: guard?.granularity ?? 0,
      guardId: guard?.id ?? '',
      guardSize: guard?.size ?? 0,
      guardContent: guard?.content ?? NO_IDENTITY,
      reasonLength: reason.length,
      reason: padded(reason, LIMIT.reason),
      shrinks: padded(
        Buffer.concat(shrinks.map((shrink) => shrinkRecord.encode(shrink))),
        LIMIT.shrinks * shrinkRecord.size,
      ),
      consumers: padded(Buffer.concat(consumers.map(encodeConsumer)), LIMIT.consumers * consumerRecord.size),
    }),
    superblock.offsetOf('checksum'),
  )
}

function encodeConsumer({ name, epoch, size, at }: Consumer): Uint8Array {
  const bytes = cut(name, LIMIT.consumerName)
  return consumerRecord.encode({ epoch, size, at, nameLength: bytes.length, name: padded(bytes, LIMIT.consumerName) })
}

/** @returns undefined for a page that was never written or not as a whole */
function decode(store: ByteStore, page: Uint8Array): { facts: Facts; sequence: number } | undefined {
  const raw = superblock.decode(page)
  if (raw.magic !== MAGIC || checksumOf(page, superblock.offsetOf('checksum')) !== raw.checksum) return undefined
  if (raw.version !== VERSION) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot use ${store.name}: it has version ${raw.version}, and this vdisk knows version ${VERSION}`,
      where: { file: store.name, structure: 'tracking superblock', at: superblock.offsetOf('version') },
      advice: 'Use the vdisk that wrote it, or begin tracking anew: vdisk track enable IMAGE --anew',
    })
  }
  const state = STATES[raw.state]
  if (!state || !isPossible(raw)) return undefined
  const stamp = {
    size: raw.stampSize,
    modified: raw.stampModified,
    changed: raw.stampChanged,
    inode: raw.stampInode,
    born: raw.stampBorn,
  }
  return {
    sequence: raw.sequence,
    facts: {
      trackId: raw.trackId,
      granularity: raw.granularity,
      state,
      epoch: raw.epoch,
      firstEpoch: raw.firstEpoch,
      shrinks: records(raw.shrinks, shrinkRecord.size, raw.shrinkCount).map((bytes) => shrinkRecord.decode(bytes)),
      diskSize: raw.diskSize,
      began: raw.began,
      stamp: stamp.inode === 0n && stamp.modified === 0n ? undefined : stamp,
      content: raw.content,
      next: raw.next,
      own: { inode: raw.ownInode, born: raw.ownBorn },
      consumers: records(raw.consumers, consumerRecord.size, raw.consumerCount).map(decodeConsumer),
      required: raw.required === 1,
      reason: Buffer.from(raw.reason.subarray(0, raw.reasonLength)).toString(),
      guard: guardOf(raw),
    },
  }
}

/** Whether numbers that decide about room and places are such as could have been written. */
function isPossible(raw: ReturnType<typeof superblock.decode>): boolean {
  const { least, most } = LIMIT.granularity
  return (
    raw.granularity >= least &&
    raw.granularity <= most &&
    Number.isInteger(Math.log2(raw.granularity)) &&
    raw.firstEpoch >= 1 &&
    raw.epoch >= raw.firstEpoch &&
    raw.diskSize <= LIMIT.disk &&
    raw.shrinkCount <= LIMIT.shrinks &&
    raw.consumerCount <= LIMIT.consumers &&
    raw.reasonLength <= LIMIT.reason &&
    (raw.guardGranularity === 0 || (raw.guardGranularity >= least && Number.isInteger(Math.log2(raw.guardGranularity))))
  )
}

function guardOf(raw: ReturnType<typeof superblock.decode>): Guard | undefined {
  const { guardGranularity: granularity, guardId: id, guardSize: size, guardContent: content } = raw
  return granularity === 0 ? undefined : { id, granularity, size, content }
}

function decodeConsumer(bytes: Uint8Array): Consumer {
  const { epoch, size, at, name, nameLength } = consumerRecord.decode(bytes)
  return { epoch, size, at, name: Buffer.from(name.subarray(0, nameLength)).toString() }
}

function records(bytes: Uint8Array, size: number, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
}

/** UTF-8 of at most `most` bytes, cut between characters. */
function cut(text: string, most: number): Uint8Array {
  const bytes = new Uint8Array(most)
  return bytes.subarray(0, new TextEncoder().encodeInto(text, bytes).written)
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  const all = new Uint8Array(length)
  all.set(bytes)
  return all
}
