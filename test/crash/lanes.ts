import { Chain } from '../../lib/chain/chain.ts'
import { promised } from '../../lib/io/io.ts'
import { Random } from '../support/random.ts'
import { delayedStore } from '../support/stores.ts'
import { randomSubset } from './choices.ts'
import { CrashFolder } from './crash-folder.ts'
import { type Choice, CrashStates, pendingAt } from './crash-state.ts'
import { type Geometry, NAMES } from './geometry.ts'
import { examineLayer } from './layer-examiner.ts'
import { begin } from './layer-scene.ts'
import { openChain } from './open-layer.ts'
import { describeCrash } from './reproducer.ts'
import { changed, type Picture, Truth } from './truth.ts'

/** What is told of writers that work at the same time, each in places of its own. */
export interface LaneWatch {
  submit(offset: number, source: Uint8Array): void
  done(offset: number, source: Uint8Array): void
  /** A flush begins; what it returns is called when the flush has ended. */
  flushing(): () => void
}

/**
 * Lets many write at once, on a store that answers when it likes, and puts what they did through crashes.
 *
 * @param how.delay seed of the store's delays; undefined: it answers at once
 * @param how.seeds each a crash
 */
export async function crashLanes(
  geometry: Geometry,
  work: (chain: Chain, watch: LaneWatch) => Promise<void>,
  how: { readonly delay: number | undefined; readonly seeds: readonly number[] },
): Promise<void> {
  const beginning = await begin(geometry)
  const folder = new CrashFolder(beginning.folder.medium)
  const truth = new Truth<Picture>(folder, beginning.picture)
  const chain = await openDelayed(geometry, folder, how.delay)
  const watch = watchFor(truth, beginning.picture)
  await work(chain, watch)
  const closing = watch.flushing()
  await promised(chain.close())
  closing()
  const touched = truth.touched(({ disk }) => [disk])
  const sector = geometry.sector ?? 512
  const states = new CrashStates(beginning.folder.medium, folder.log, sector)
  for (const seed of how.seeds) {
    const random = new Random(seed)
    const end = random.below(folder.log.length + 1)
    const pending = pendingAt(folder.log, end).map((index) => ({ index }))
    const choice: Choice = { end, kept: randomSubset(folder.log, pending, sector, random) }
    const expected = { possible: truth.possibleAt(end), touched, lied: false, reopens: true }
    try {
      await examineLayer(geometry, beginning, new CrashFolder(states.after(choice).medium), expected)
    } catch (error) {
      if (error instanceof Error) error.message += `\n${describeCrash(folder.log, choice)}\n(seed ${seed})`
      throw error
    }
  }
}

async function openDelayed(geometry: Geometry, folder: CrashFolder, delay: number | undefined): Promise<Chain> {
  if (delay === undefined) return await openChain(geometry.driver, folder, 'write')
  const image = folder.image(NAMES.image)
  const layer = await promised(geometry.driver.open({ ...image, store: delayedStore(image.store, delay) }, 'write'))
  if (!layer.parent) return new Chain([layer])
  const below = await openChain(geometry.driver, folder, 'read')
  return new Chain([...below.layers.slice(0, -1), layer])
}

function watchFor(truth: Truth<Picture>, start: Picture): LaneWatch {
  let acknowledged = start
  return {
    submit: (offset, source) => truth.submit(changed(truth.now, (disk) => disk.write(offset, source))),
    done(offset, source) {
      acknowledged = changed(acknowledged, (disk) => disk.write(offset, source))
    },
    flushing() {
      // What was asked for last holds all that has not been answered yet: that may be there as well.
      const [picture, since] = [acknowledged, truth.asked - 1]
      return () => truth.promise(since, picture)
    },
  }
}
