import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { Layer } from '../../../../lib/contracts/layer.ts'
import { isVdiskError } from '../../../../lib/errors.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { patternFor } from '../../../model/history.ts'
import { printSeed, type Random, randomTest } from '../../../support/random.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { contentOf, type Recorded, RecordingStore } from '../../../support/stores.ts'
import { KIB, logEntry, MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { findings, namedBy, repair, sectorsOf } from '../../../support/vhdx-repair.ts'

const SIZE = 5 * MIB
const BITMAP = 4096
const GUID = '11111111-2222-4333-8444-555555555555'
const PARAMETERS = 'caa16737-fa36-4d43-b3b6-33f0aa44e76b'

/** Writes back from the last one of which one may be missing. */
const MISSING = 3

type Sectors = readonly (Uint8Array | undefined)[]

interface Case {
  readonly file: VhdxFile
  readonly below: readonly Layer[]
}

/** Three blocks of content in the file; in a child, one of them in parts. */
async function written(isChild: boolean): Promise<Case> {
  const below = isChild ? [await rawBase(SIZE)] : []
  const file = await VhdxFile.make(SIZE, {}, isChild ? rawParent(SIZE) : undefined)
  const chain = new Chain([...below, await file.write()])
  for (const block of [0, 1]) await promised(chain.write(block * MIB, patternFor(0, MIB, block + 1)))
  await promised(chain.write(2 * MIB + 4096, patternFor(0, 20480, 3)))
  await promised(chain.close())
  return { file, below }
}

/** What the guest reads, if the file opens. */
async function read({ file, below }: Case): Promise<Sectors | undefined> {
  try {
    return await sectorsOf(await file.read(), below)
  } catch (error) {
    if (isVdiskError(error)) return undefined
    throw error
  }
}

function apply(store: MemoryStore, step: Recorded): void {
  if (step.kind === 'write') store.write(step.at, step.bytes)
  else if (step.kind === 'truncate') store.truncate(step.size)
}

/**
 * Files that a crash can leave: all that was written up to some step; of what was not flushed then one write may be
 * missing, and the last may be torn after its first sector.
 */
function* crashStates(before: Uint8Array, log: readonly Recorded[]): Generator<{ name: string; store: MemoryStore }> {
  const stateOf = (steps: readonly Recorded[]): MemoryStore => {
    const store = new MemoryStore('a', { content: before })
    for (const step of steps) apply(store, step)
    return store
  }
  for (let end = 0; end <= log.length; end++) {
    const steps = log.slice(0, end)
    const last = steps.at(-1)
    if (last?.kind === 'flush') continue
    yield { name: `${end} of ${log.length} steps`, store: stateOf(steps) }
    if (last?.kind === 'write' && last.bytes.length > 512) {
      const torn = { ...last, bytes: last.bytes.subarray(0, 512) }
      yield { name: `${end} steps, the last one torn`, store: stateOf([...steps.slice(0, -1), torn]) }
    }
    const epoch = steps.findLastIndex(({ kind }) => kind === 'flush') + 1
    // Of many writes the neighbours of the last one tell most.
    for (let missing = Math.max(epoch, end - MISSING); missing < end - 1; missing++) {
      yield { name: `${end} steps without ${missing}`, store: stateOf(steps.filter((_, i) => i !== missing)) }
    }
  }
}

/** Pages that the entries of a log, or of a piece of one, are about. */
function pagesIn(log: Uint8Array): number[] {
  const view = new DataView(log.buffer, log.byteOffset, log.byteLength)
  const pages: number[] = []
  for (let entry = 0; entry < log.length; entry += 4096) {
    if (Buffer.from(log.subarray(entry, entry + 4)).toString('latin1') !== 'loge') continue
    const count = view.getUint32(entry + 24, true)
    for (let i = 0; i < count; i++) pages.push(Number(view.getBigUint64(entry + (i + 2) * 32 + 16, true)))
  }
  return pages
}

/**
 * Pages of tables that were written before an entry of the log said so, durably. [MS-VHDX] 2.3
 *
 * @param waiting what was in the log before, and had still to be done
 */
function unloggedPages(file: VhdxFile, log: readonly Recorded[], waiting: readonly number[]): number[] {
  const tables = [{ at: 192 * KIB, length: 128 * KIB }, file.metadata, file.bat]
  const logged = new Set(waiting)
  let coming: number[] = []
  const unlogged: number[] = []
  for (const step of log) {
    if (step.kind === 'flush') for (const page of coming.splice(0)) logged.add(page)
    if (step.kind !== 'write') continue
    if (step.at >= file.logAt && step.at < file.logAt + file.logLength) coming = coming.concat(pagesIn(step.bytes))
    const isTable = tables.some(({ at, length }) => step.at >= at && step.at < at + length)
    if (isTable && !logged.has(step.at)) unlogged.push(step.at)
  }
  return unlogged
}

function sameSector(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && Buffer.compare(a, b) === 0
}

/** Offset of the first sector that reads as neither before nor after a repair; -1: none. */
function firstStray(found: Sectors, before: Sectors | undefined, after: Sectors): number {
  return 512 * found.findIndex((bytes, i) => bytes && !sameSector(bytes, before?.[i]) && !sameSector(bytes, after[i]))
}

const withoutRoom = (codes: readonly string[]): string[] => codes.filter((code) => code !== 'ROOM_UNUSED')
const reserved = (file: VhdxFile, index: number): void => file.setEntry(index, file.entry(index) | 0x80n)

describe('a crash in the middle of a repair leaves nothing that reads otherwise, and the next repair does the rest', () => {
  test.each<[string, boolean, (file: VhdxFile) => unknown]>([
    ['a signature', false, (file) => file.put(0, Buffer.from('x'))],
    ['a header', false, (file) => file.put(64 * KIB + 900, Buffer.from('x'))],
    ['both headers', false, (file) => [64, 128].map((k) => file.put(k * KIB + 4, Buffer.from('xxxx')))],
    [
      'both copies of the region table',
      false,
      (file) => [192, 256].map((k, i) => file.put(k * KIB + 20 + i * 9000, Buffer.from('x'))),
    ],
    ['the metadata table', false, (file) => file.put(file.metadata.at, Buffer.from('x'))],
    [
      'the parent locator',
      true,
      (file) =>
        file.edit(file.item('a8d35f2d-b30b-454d-abf7-d3d84834ab0c').at + 20, 12, -1, (view) =>
          view.setUint32(0, 0xffffff, true),
        ),
    ],
    [
      'a log that waits',
      false,
      (file) => {
        const end = file.store.size()
        const updates = [{ at: file.bat.at, bytes: file.bytes(file.bat.at, 4096) }]
        file.setEntry(0, 0n)
        file.setLog(GUID, [
          { at: 0, bytes: logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: end, last: end }) },
        ])
      },
    ],
    ['a log that cannot be replayed', false, (file) => file.setLog(GUID, [])],
    [
      'blocks past the end',
      false,
      (file) => [0, 2].map((block) => file.setEntry(block, BigInt((90 + block) * MIB) | 6n)),
    ],
    [
      'blocks that share a place, and one past the end where copies go',
      false,
      (file) => {
        file.setEntry(3, file.entry(0))
        file.setEntry(4, BigInt(file.store.size()) | 6n)
      },
    ],
    ['a block that the end of the file cuts', false, (file) => file.store.truncate(file.store.size() - 9000)],
    ['a sector bitmap', true, (file) => file.setEntry(BITMAP, 0n)],
    ['a block in part without a parent', true, (file) => file.put(file.item(PARAMETERS).at + 4, Buffer.from([0]))],
    ['room that belongs to nothing', false, (file) => file.put(file.store.size(), new Uint8Array(MIB + 4096).fill(7))],
    [
      'all sorts of things',
      true,
      (file) => {
        file.put(64 * KIB, Buffer.from('x'))
        file.put(256 * KIB, Buffer.from('x'))
        file.setEntry(3, file.entry(0))
        file.setEntry(4, BigInt(file.store.size()) | 6n)
        reserved(file, 1)
        file.setEntry(BITMAP, 3n)
      },
    ],
  ])('of %s', async (_, isChild, spoil) => {
    const whole = await written(isChild)
    spoil(whole.file)
    const before = await read(whole)
    const bytes = contentOf(whole.file.store)
    const mended = { ...whole, file: whole.file.copy() }
    const recorder = new RecordingStore(mended.file.store)
    const report = await repair(mended.file, 'all', recorder)
    expect(recorder.log.length).toBeGreaterThan(0)
    const after = (await read(mended)) as Sectors
    // Torn pages of tables are mended by the next replay, so nothing shows a change that passed the log by.
    const { log, at } = whole.file.header
    const waiting = log === ZERO_GUID ? [] : pagesIn(whole.file.bytes(Number(whole.file.u64(at + 72)), MIB))
    expect(unloggedPages(mended.file, recorder.log, waiting)).toEqual([])
    const named = namedBy(report)
    const left = await findings(mended.file)
    let states = 0
    for (const { name, store } of crashStates(bytes, recorder.log)) {
      states++
      const state = { ...whole, file: new VhdxFile(store) }
      const found = await read(state)
      if (found) expect(firstStray(found, before, after), name).toBe(-512)
      await repair(state.file)
      const again = (await read(state)) as Sectors
      const stray = again.findIndex((sector, i) => {
        const isNamed = named.some(({ offset, length }) => i * 512 < offset + length && i * 512 + 512 > offset)
        return !isNamed && !sameSector(sector, after[i])
      })
      expect(stray, name).toBe(-1)
      // Content that is not named reads exactly so; what is named reads as it did, or as the repair leaves it.
      expect(firstStray(again, before, after), name).toBe(-512)
      expect(withoutRoom(await findings(state.file)), name).toEqual(withoutRoom(left))
    }
    expect(states).toBeGreaterThanOrEqual(2)
  })
})

printSeed()

/** Spoils something of which a trace is left. @returns the block that it is about */
function spoilSomething(file: VhdxFile, random: Random, isChild: boolean): number | undefined {
  const block = random.below(5)
  const end = file.store.size()
  const other = random.below(5)
  const present = BigInt(random.chance(0.3) && isChild ? 7 : 6)
  const put = (at: number, bytes: Uint8Array): undefined => {
    file.put(at, bytes)
  }
  const kinds: (() => number | undefined)[] = [
    () => put([64, 128].map((k) => k * KIB)[random.below(2)] as number, random.bytes(40)),
    () => put(([192, 256].map((k) => k * KIB)[random.below(2)] as number) + random.below(60_000), random.bytes(4)),
    () => put(0, random.bytes(8)),
    () => put(file.metadata.at, random.bytes(8)),
    () => {
      file.setEntry(block, BigInt(random.below(end / MIB + 4) * MIB) | present)
      return block
    },
    () => {
      file.setEntry(block, (file.entry(other) & ~7n) | present)
      return block
    },
    () => {
      reserved(file, block)
      return block
    },
    () => {
      file.setEntry(block, new DataView(random.bytes(8).buffer).getBigUint64(0))
      return block
    },
    () => {
      file.setEntry(block, (file.entry(block) & ~7n) | 4n)
      return block
    },
    () => {
      // What a bitmap decides about is all that is present in part.
      if (isChild) file.setEntry(BITMAP, random.pick([0n, 3n, BigInt(77 * MIB) | 6n, file.entry(0)]))
      return isChild ? -1 : undefined
    },
    () => put(end, random.bytes(700)),
  ]
  return random.pick(kinds)()
}

describe('whatever is spoiled, a repair changes nothing that could be read but what it names', () => {
  for (let round = 0; round < 4; round++) {
    for (const isChild of [false, true]) {
      randomTest(`round ${round} of ${isChild ? 'a child' : 'a disk'}`, async (random) => {
        for (let turn = 0; turn < 3; turn++) {
          const state = await written(isChild)
          const truth = (await read(state)) as Sectors
          const touched = new Set<number | undefined>()
          for (let i = 0; i <= random.below(4); i++) touched.add(spoilSomething(state.file, random, isChild))
          const before = await read(state)
          let named: ReturnType<typeof namedBy>
          try {
            named = namedBy(await repair(state.file))
          } catch (error) {
            // Where it would be a guess.
            if (isVdiskError(error, 'CORRUPT') || isVdiskError(error, 'NOT_THIS_FORMAT')) continue
            throw error
          }
          const after = (await read(state)) as Sectors
          for (const [i, bytes] of after.entries()) {
            if (named.some(({ offset, length }) => i * 512 < offset + length && i * 512 + 512 > offset)) continue
            const isTouched = touched.has(Math.floor((i * 512) / MIB)) || (touched.has(-1) && i * 512 >= 2 * MIB)
            if (!isTouched) expect(sameSector(bytes, truth[i]), `sector ${i}`).toBe(true)
            if (before?.[i]) expect(sameSector(bytes, before[i]), `sector ${i}`).toBe(true)
          }
          await repair(state.file)
          expect((await checkLayer(vhdx, await state.file.read())).findings).toEqual([])
          const bytes = contentOf(state.file.store)
          expect((await repair(state.file)).count).toBe(0)
          expect(Buffer.compare(contentOf(state.file.store), bytes)).toBe(0)
        }
      })
    }
  }
})
