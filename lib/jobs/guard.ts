import { Bitmap } from '../bytes/bitmap.ts'
import type { Chain } from '../chain/chain.ts'
import { type BitmapEditor, isWritable, type Layer, type Restart } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { type Io, just } from '../io/io.ts'
import { type Guard, guardName, NO_CONTENT, type Overtaken, sentinelsOf } from '../tracking/guard.ts'
import type { Range } from '../tracking/recorder.ts'
import { extentsOf } from './bitmap-extents.ts'
import { contentOf } from './disk-content.ts'

/**
 * The guard of a qcow2 image: a bitmap that QEMU keeps while it writes, so that its changes are known and not only noticed.
 * [docs/qcow2-bitmaps.md, "The guard"]
 */

const PREFIX = guardName({ id: '' })

/** Bits that a guard has at most; what its disk has more of, a bit stands for more of. */
const MOST_BITS = 2 ** 26

/** The disk as one that others have written to, by the rules of its format; undefined: it is not, or does not tell. */
export function overtakenOf(top: Layer, parents: readonly string[]): Overtaken | undefined {
  const { identity, bitmaps } = top
  if (!identity || bitmaps?.foreignWriter !== 'conforming') return undefined
  return {
    content: contentOf(parents, top, { ...identity, current: true }),
    changed: (guard) => changedBy(top, guard),
  }
}

/** The guard as it is noted when it was begun anew, and its image is closed. @param parents as `wordsOfParents` told them before */
export function guardAt(chain: Chain, parents: readonly string[], guard: Guard): Guard {
  const top = topOf(chain)
  if (!canBeGuarded(chain, guard) || !top.identity?.current) return { ...guard, size: chain.size, content: NO_CONTENT }
  return { ...guard, size: chain.size, content: contentOf(parents, top, top.identity) }
}

/** Lets the guard begin anew when the disk is closed, if it was changed. */
export function restartGuard(chain: Chain, guard: Guard): Restart | undefined {
  return topOf(chain).bitmaps?.edit?.restart(guardName(guard), (count) => freshBits(guard, count))
}

/**
 * Makes a guard in an image that is open for writing; what was left of others goes. It begins when the image is closed.
 *
 * @param granularity bytes that share a counter
 * @throws VdiskError UNSUPPORTED where the image cannot have one; LIMIT_EXCEEDED
 */
export function* makeGuard(chain: Chain, id: string, granularity: number): Io<Guard> {
  const top = topOf(chain)
  const edit = editorOf(top)
  let grain = granularity
  while (Math.ceil(chain.size / grain) > MOST_BITS) grain *= 2
  const guard = { id, granularity: grain, size: chain.size, content: NO_CONTENT }
  restartGuard(chain, guard)
  yield* edit.announce()
  yield* removeGuards(chain)
  yield* edit.put(guardName(guard), {
    granularity: grain,
    enabled: true,
    bits: freshBits(guard, Math.ceil(chain.size / grain)),
  })
  return guard
}

/** Whether a guard is there, and would tell all that other programs change. */
export function canBeGuarded(chain: Chain, guard: Guard): boolean {
  const { bitmaps, snapshots } = topOf(chain)
  // To go back to a snapshot changes the disk, and not every program notes that in a bitmap.
  if ((snapshots?.list().length ?? 0) > 0) return false
  const known = bitmaps?.list().find(({ name }) => name === guardName(guard))
  return known?.granularity === guard.granularity
}

/** Another state of the content begins if others have written, so that the guard begins anew when the disk is closed. */
export function* announceGuard(chain: Chain): Io<void> {
  yield* topOf(chain).bitmaps?.edit?.announce() ?? just(undefined)
}

/** Takes every guard out of an image that is open for writing. */
export function* removeGuards(chain: Chain): Io<void> {
  const { bitmaps } = topOf(chain)
  if (!bitmaps?.edit) return
  for (const { name } of bitmaps.list()) if (name.startsWith(PREFIX)) yield* bitmaps.edit.remove(name)
}

function* changedBy(top: Layer, guard: Guard): Io<Iterable<Range> | string> {
  const stored = top.bitmaps
  const info = stored?.list().find(({ name }) => name === guardName(guard))
  if (!stored || !info) return 'it is not there any more'
  if (!info.consistent) return 'it was not saved by its last writer'
  if (!info.enabled) return 'somebody has switched it off'
  if (info.granularity !== guard.granularity) return 'it is another one'
  let bits: Bitmap
  try {
    bits = yield* stored.read(info.name)
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT')) throw error
    return 'it cannot be read'
  }
  const count = Math.ceil(guard.size / guard.granularity)
  if (!sentinelsOf(guard, count).every((bit) => bit < bits.length && bits.has(bit))) {
    return 'the disk was cut off meanwhile, or somebody has emptied it'
  }
  return extentsOf(bits, guard.granularity, top.size)
}

function freshBits(guard: Guard, count: number): Bitmap {
  const bits = Bitmap.empty(count)
  for (const bit of sentinelsOf(guard, count)) bits.fill(bit, bit + 1)
  return bits
}

function editorOf(top: Layer): BitmapEditor {
  const edit = isWritable(top) ? top.bitmaps?.edit : undefined
  const several = (top.neighbours ?? []).length > 0 || top.details.dataFile !== undefined
  if (edit && !several) return edit
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot guard ${top.name}: only a qcow2 image of version 3, with its data in it, can have a guard`,
    where: { file: top.name },
    advice: 'Track it without one: when another program writes to it, all of it counts as changed then.',
  })
}

function topOf({ layers }: Chain): Layer {
  return layers.at(-1) as Layer
}
