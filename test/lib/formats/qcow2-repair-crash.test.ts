import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import {
  addExtras,
  bitmapEntry,
  bitmapsExtension,
  COPIED,
  CraftedImage,
  PLACE,
  snapshotEntry,
} from '../../support/crafted-qcow2.ts'
import { at, C, COUNTS, CROSS_LINKS, ENTRIES, HEADERS } from '../../support/damaged-qcow2.ts'
import { expectSound, repairStore, salvageStore } from '../../support/repairing.ts'
import { type Recorded, RecordingStore } from '../../support/stores.ts'

/** A snapshot that cannot be used beside one that can, a bitmap beside one that was not saved, and wrong entries. */
function withEverything(): CraftedImage {
  const image = new CraftedImage()
  const extras = addExtras(image)
  const bad = snapshotEntry({ l1At: 1 << 30, l1Size: 2, id: '2', name: 'torn' })
  const good = snapshotEntry({ l1At: image.at(extras.snapshotL1), l1Size: 2 })
  image.bytes.set(Buffer.concat([bad, good]), image.at(extras.snapshotTable))
  image.header('snapshotCount', 2)
  image.bytes.set(bitmapEntry({ tableAt: image.at(extras.bitmapTable), flags: 3 }), image.at(extras.directory))
  image.l2(7, at(PLACE.data1) | COPIED).l2(9, at(1 << 18) | COPIED)
  return image
}

/** A bitmap that is of no use beside one that is, and nothing that the guest would notice. */
function withBitmaps(): CraftedImage {
  const image = new CraftedImage()
  const extras = addExtras(image)
  const bad = bitmapEntry({ tableAt: 1 << 30, name: 'torn' })
  const directory = Buffer.concat([bad, bitmapEntry({ tableAt: image.at(extras.bitmapTable) })])
  image.bytes.set(directory, image.at(extras.directory))
  image.bytes.set(bitmapsExtension({ count: 2, length: directory.length, at: image.at(extras.directory) }), 120)
  return image
}

/** A snapshot that has one L2 table at two places. */
function withSnapshotTwice(): CraftedImage {
  const image = new CraftedImage()
  const { snapshotL1, snapshotL2 } = addExtras(image)
  return image.u64(image.at(snapshotL1) + 8, image.at(snapshotL2))
}

const CASES: readonly (readonly [string, () => CraftedImage])[] = [
  ...[...ENTRIES, ...CROSS_LINKS, ...COUNTS, ...HEADERS].map(({ what, image }) => [what, image] as const),
  [
    'a refcount table of which one entry is wrong',
    () => new CraftedImage().u64(PLACE.refcountTable * C + 8, 0x1234567),
  ],
  ['a bitmap of no use beside another', withBitmaps],
  ['a table that a snapshot has twice', withSnapshotTwice],
  ['snapshots, bitmaps and entries at once', withEverything],
  ['the same, and counts that are lost', () => withEverything().u64(PLACE.refcountTable * C, 77)],
]

/** The file after some of what was recorded has reached the medium. */
function stateOf(image: CraftedImage, log: readonly Recorded[]): MemoryStore {
  const store = image.store()
  for (const one of log) {
    if (one.kind === 'write') store.write(one.at, one.bytes)
    else if (one.kind === 'truncate') store.truncate(one.size)
  }
  return store
}

/** Every prefix of what was written; and of each time between two flushes each write alone, and all but one. */
function* crashes(log: readonly Recorded[]): Generator<Recorded[]> {
  for (let end = 0, begin = 0; end <= log.length; end++) {
    yield log.slice(0, end)
    if (log[end]?.kind !== 'flush' && end < log.length) continue
    const before = log.slice(0, begin)
    const epoch = log.slice(begin, end)
    for (let i = 0; epoch.length > 1 && i < epoch.length; i++) {
      yield [...before, epoch[i] as Recorded]
      yield [...before, ...epoch.slice(0, i), ...epoch.slice(i + 1)]
    }
    begin = end + 1
  }
}

/** Clusters that are in use and not counted: the next writer may take them for free. */
async function uncounted(store: MemoryStore): Promise<number[]> {
  const { layer } = await salvageStore(store)
  const report = new CheckReport()
  await promised(qcow2.check(layer, report))
  return report.findings.filter(({ code }) => code.startsWith('REFCOUNT_')).map((one) => one.at ?? -1)
}

/** First byte of each cluster of the disk; undefined where it cannot be read. */
async function disk(store: MemoryStore): Promise<(number | undefined)[]> {
  const { layer } = await salvageStore(store)
  const chain = new Chain([layer], { readOnly: true })
  const bytes: (number | undefined)[] = []
  const target = new Uint8Array(1)
  for (let offset = 0; offset < chain.size; offset += C) {
    try {
      await promised(chain.read(offset, target))
      bytes.push(target[0])
    } catch (error) {
      if (!isVdiskError(error)) throw error
      bytes.push(undefined)
    }
  }
  return bytes
}

/** What the image has besides its disk; bitmaps that record lose their worth where a crash comes between changes of content. */
async function belongings(store: MemoryStore, isUnchanged: boolean): Promise<string[]> {
  const { layer } = await salvageStore(store)
  const bitmaps = isUnchanged ? layer.bitmaps.list().map(({ name }) => name) : []
  return [...layer.snapshots.list().map(({ id }) => id), ...bitmaps]
}

let states = 0

describe('a repair that a crash cuts short', () => {
  test.each(CASES)('leaves no more damage than there was, and is done by the next: %s', async (_, make) => {
    const image = make()
    const recording = new RecordingStore(image.store())
    const { doubtful } = await repairStore(recording)
    const [before, openBefore] = [await disk(image.store()), new Set(await uncounted(image.store()))]
    const after = await disk(stateOf(image, recording.log))
    const kept = await belongings(stateOf(image, recording.log), doubtful.length === 0)
    const named = (cluster: number): boolean =>
      doubtful.some(({ offset, length, snapshot }) => {
        return snapshot === undefined && cluster * C >= offset && cluster * C < offset + length
      })
    for (const log of crashes(recording.log)) {
      states++
      const state = stateOf(image, log)
      for (const place of await uncounted(state)) expect(openBefore).toContain(place)
      for (const [cluster, byte] of (await disk(state)).entries()) {
        if (byte !== before[cluster] && byte !== after[cluster])
          expect([cluster, named(cluster)]).toEqual([cluster, true])
      }
      await repairStore(state)
      await expectSound(state)
      expect(await belongings(state, doubtful.length === 0)).toEqual(kept)
      for (const [cluster, byte] of (await disk(state)).entries()) {
        if (byte !== after[cluster]) expect([cluster, named(cluster)]).toEqual([cluster, true])
      }
    }
  })

  test('in some hundred states', () => {
    expect(states).toBeGreaterThan(300)
    console.info(`${states} states`)
  })
})
