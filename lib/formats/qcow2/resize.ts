import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { Qcow2Editor } from './editor.ts'
import { LIMIT, SECTOR } from './layout.ts'
import type { Qcow2Parts } from './parts.ts'
import { RootTable } from './root-table.ts'

/**
 * Changes the disk's size, durably and in one step: the sector of the header that holds it. Nobody writes meanwhile.
 *
 * What lies past the old size, left over by whoever shrank the disk before, is made unreachable before the disk
 * grows over it; what lies past the new size is given up after the disk has shrunk.
 */
export function* resizeImage(
  layer: Qcow2Editor,
  parts: Qcow2Parts,
  size: number,
  { parentSize, signal }: { parentSize: number; signal: AbortSignal | undefined },
): Io<void> {
  const { header, bitmaps } = parts
  const { size: before } = header
  if (size === before) return
  refuseImpossibleSize(layer, parts, size)
  const entries = ceilDiv(size, header.l2Span)
  yield* layer.session.beginContent()
  yield* bitmaps.beginResize()
  if (size > before) {
    if (entries > parts.mapping.l1.length) yield* growL1(layer, parts, entries)
    yield* clearTail(layer, parts, before)
    const pace = new Pace(signal)
    yield* eraseRange(layer, roundUp(before, header.clusterSize), reachOf(parts), pace)
    const hidden = { from: roundUp(before, parts.mapping.unit), to: Math.min(size, parentSize) }
    yield* hideParent(layer, parts, hidden, pace)
    yield* layer.flush()
    yield* header.change(layer.store, { size })
    bitmaps.resized(before)
  } else {
    yield* header.change(layer.store, { size })
    bitmaps.resized(before)
    yield* eraseRange(layer, roundUp(size, header.clusterSize), reachOf(parts), new Pace())
  }
  yield* layer.flush()
  if (parts.mapping.dataStore !== layer.store) yield* fitDataFile(parts, size)
}

/** @throws VdiskError REFUSED, UNSUPPORTED if the image cannot have a disk of `size` bytes */
export function refuseImpossibleSize(layer: Qcow2Editor, { header, snapshots }: Qcow2Parts, size: number): void {
  if (size % SECTOR !== 0) {
    throw new VdiskError('REFUSED', {
      message: `Cannot make ${layer.name} ${size} bytes large: a disk consists of sectors of ${SECTOR} bytes`,
      where: { file: layer.name },
      advice: `Give a multiple of ${SECTOR}.`,
    })
  }
  if (!snapshots.allKnowSize || (header.version === 2 && header.snapshotCount > 0)) {
    throw refuse(layer, 'its snapshots do not know their size', 'Convert the image with -o compat=1.1, or delete them.')
  }
  if (ceilDiv(size, header.l2Span) * 8 > LIMIT.l1Bytes) {
    throw refuse(
      layer,
      `its clusters of ${header.clusterSize} bytes are too small for ${size} bytes`,
      'Convert it with larger clusters: -o cluster_size=2M',
    )
  }
}

/**
 * Moves the L1 table to a larger place. The header switches at once, with the size as it was: should what follows
 * fail, the disk goes on with a table that is longer than it needs.
 */
function* growL1(layer: Qcow2Editor, parts: Qcow2Parts, entries: number): Io<void> {
  const { header, mapping } = parts
  yield* layer.flush()
  const old = mapping.l1
  const place = yield* layer.refcounts.allocate(ceilDiv(entries * 8, header.clusterSize), true)
  const bytes = new Uint8Array(entries * 8)
  bytes.set(old.bytes)
  try {
    yield* settle(layer.store.write(place.at, bytes))
    yield* layer.flush()
  } catch (error) {
    layer.refcounts.release(place.at, bytes.length)
    throw error
  }
  // If this fails nobody knows which header the medium has, so the room stays counted.
  yield* header.change(layer.store, { l1TableOffset: place.at, l1Size: entries })
  mapping.l1 = new RootTable(place.at, bytes)
  mapping.places.addRange(place.at, bytes.length)
  if (old.length === 0) return
  mapping.places.removeRange(old.at)
  layer.refcounts.release(old.at, old.bytes.length)
}

/** Zeros what the last cluster holds behind the end of the disk; with extended entries, here and there in it. */
function* clearTail(layer: Qcow2Editor, parts: Qcow2Parts, size: number): Io<void> {
  const end = roundUp(size, parts.header.clusterSize)
  for (let at = size; at < end; ) {
    const extent = yield* layer.map(at, end - at)
    const silent = extent.kind === 'zero' || extent.kind === 'parent'
    at += silent ? extent.length : yield* writeZeros(layer, parts, at, extent.length)
  }
}

/**
 * Writes zeros past the end of the disk.
 *
 * What must be brought along is this layer's own: whoever resizes a child has written to its last cluster, so that
 * nothing of the parent shows in it where the cluster has to move.
 */
function* writeZeros(layer: Qcow2Editor, parts: Qcow2Parts, at: number, length: number): Io<number> {
  const room = yield* layer.allocation.reserve(at, length)
  for (const fill of room.fills) {
    const part = new Uint8Array(fill.length)
    yield* readOwn(layer, fill.offset, part.subarray(0, Math.max(0, parts.header.size - fill.offset)))
    yield* settle(room.store.write(fill.at, part))
  }
  yield* settle(room.store.write(room.at, new Uint8Array(room.length)))
  yield* room.publish()
  return room.length
}

/** Reads what this layer itself holds; where it is silent, zeros. */
function* readOwn(layer: Qcow2Editor, offset: number, target: Uint8Array): Io<void> {
  for (let done = 0; done < target.length; ) {
    const extent = yield* layer.map(offset + done, target.length - done)
    const part = target.subarray(done, done + extent.length)
    if (extent.kind === 'data') yield* settle(extent.store.read(extent.at, part))
    if (extent.kind === 'packed') {
      const stored = new Uint8Array(extent.packed.storedLength)
      yield* settle(extent.packed.store.read(extent.packed.at, stored))
      part.set(extent.packed.unpack(stored).subarray(extent.skip, extent.skip + extent.length))
    }
    done += extent.length
  }
}

/** Makes a range past the old end read as zero where the parent would show. */
function* hideParent(
  layer: Qcow2Editor,
  parts: Qcow2Parts,
  { from, to }: { from: number; to: number },
  pace: Pace,
): Io<void> {
  const end = to > from ? roundUp(to, layer.granularity) : from
  for (let at = from; at < end; ) {
    yield* pace.keep()
    const erased = yield* layer.allocation.erase(at, end - at, 'zero')
    // Version 2 has no mark for zeros: there they are written.
    at += erased > 0 ? erased : yield* writeZeros(layer, parts, at, Math.min(end - at, layer.granularity))
    yield* layer.relieve()
  }
}

/** Unmaps whole clusters. */
function* eraseRange(layer: Qcow2Editor, from: number, to: number, pace: Pace): Io<void> {
  const end = roundUp(to, layer.granularity)
  for (let at = from; at < end; ) {
    yield* pace.keep()
    at += yield* layer.allocation.erase(at, end - at, 'parent')
    yield* layer.relieve()
  }
}

/** How far the L1 table reaches, in bytes of the disk. */
function reachOf(parts: Qcow2Parts): number {
  return parts.mapping.l1.length * parts.header.l2Span
}

function* fitDataFile(parts: Qcow2Parts, size: number): Io<void> {
  const { dataStore } = parts.mapping
  yield* settle(dataStore.truncate(size))
  yield* settle(dataStore.flush())
}

function refuse(layer: Qcow2Editor, why: string, advice: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot resize ${layer.name}: ${why}`,
    where: { file: layer.name },
    advice,
  })
}
