import { expect } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { isVdiskError, type VdiskError } from '../../../lib/errors.ts'
import { promised } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { addExtras, CraftedImage, openStore, PLACE } from '../../support/crafted-qcow2.ts'
import { failure } from '../../support/hostile.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'
import { expectSound, repairStore, salvageStore } from '../../support/repairing.ts'
import { contentOf } from '../../support/stores.ts'

printSeed()

/** An image with a snapshot, a bitmap, shared, private and zero clusters, and several L2 tables; all by our own hand. */
async function richImage(random: Random, clusterBits: number): Promise<CraftedImage> {
  const image = new CraftedImage({ clusterBits })
  addExtras(image)
  const store = image.store()
  const layer = openStore(store, 'write')
  const chain = new Chain([layer])
  const { cluster } = image
  const write = async (): Promise<void> => {
    const count = 1 + random.below(4)
    const offset = random.below(Math.floor(chain.size / cluster) - count) * cluster
    await promised(chain.write(offset, Buffer.alloc(count * cluster, 1 + random.below(255))))
  }
  for (let i = 0; i < 6; i++) await write()
  await promised(layer.snapshots.edit?.create('second') as never)
  for (let i = 0; i < 4; i++) await write()
  await promised(chain.close())
  image.bytes = Buffer.from(store.bytes())
  return image
}

/** Bytes of the header in which damage can be told from another image that is just as good. */
const HEADER = [48, 72, 88, 104] as const

/** Damages a few numbers of a table, or bits of anything but the magic and what only a guess could bring back. */
function damage(random: Random, bytes: Buffer, cluster: number, tables: readonly number[]): string[] {
  const told: string[] = []
  for (let n = 1 + random.below(4); n > 0; n--) {
    const base = random.pick(tables) * cluster
    const part = base === 0 ? [...HEADER] : [0, Math.min(cluster, bytes.length - base)]
    const from = base === 0 ? 2 * random.below(2) : 0
    const at = base + (part[from] as number) + random.below((part[from + 1] as number) - (part[from] as number))
    if (random.chance(0.5)) {
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8))
      told.push(`a bit of byte ${at}`)
    } else if (base !== 0) {
      const entry = at - (at % 8)
      const value = random.pick([
        0n,
        1n,
        1n << 63n,
        0xffffffffffffffffn,
        BigInt(random.below(40) * cluster),
        (1n << 63n) | BigInt(random.below(40) * cluster),
        0x5555555555555555n,
      ])
      if (entry + 8 <= bytes.length) bytes.writeBigUInt64BE(value, entry)
      told.push(`${value.toString(16)} at ${entry}`)
    }
  }
  return told
}

/** What is read of each cluster, or why it cannot be. By snapshot, undefined for the disk itself. */
type Readings = Map<string | undefined, (Buffer | VdiskError)[]>

async function readingsOf(store: MemoryStore, cluster: number): Promise<Readings> {
  const readings: Readings = new Map()
  let layer: Awaited<ReturnType<typeof salvageStore>>['layer']
  try {
    layer = (await salvageStore(store)).layer
  } catch {
    return readings
  }
  const ids = [undefined, ...layer.snapshots.list().map(({ id }) => id)]
  for (const id of ids) {
    const found = id === undefined ? layer : await attempt(() => promised(layer.snapshots.open(id)))
    if (!found || found.size > 64 << 20) continue
    const chain = new Chain([found], { readOnly: true })
    const parts: (Buffer | VdiskError)[] = []
    for (let at = 0; at < chain.size; at += cluster) {
      const bytes = Buffer.alloc(Math.min(cluster, chain.size - at))
      parts.push((await failure(() => promised(chain.read(at, bytes)))) ?? bytes)
    }
    readings.set(id, parts)
  }
  return readings
}

async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    if (isVdiskError(error)) return undefined
    throw error
  }
}

/** Whatever reads otherwise than it was written is called doubtful, or read so before too: no repair could know. */
function expectSameBut(
  wanted: Readings,
  damaged: Readings,
  found: Readings,
  doubtful: readonly { offset: number; length: number; snapshot: string | undefined }[],
  cluster: number,
): void {
  for (const [id, parts] of found) {
    const before = wanted.get(id)
    const ranges = doubtful.filter(({ snapshot }) => snapshot === id)
    for (const [i, bytes] of parts.entries()) {
      const asBefore = damaged.get(id)?.[i]
      // That a stream makes no sense is seen only by who unpacks it, and read as nothing else.
      if (isVdiskError(bytes) && bytes.where.structure === 'compressed cluster') continue
      if (isVdiskError(bytes)) throw new Error(`cluster ${i} of ${id ?? 'the disk'}: ${bytes.message}`)
      if (!before || isSame(before[i], bytes) || isSame(asBefore, bytes)) continue
      const named = ranges.some(({ offset, length }) => (i + 1) * cluster > offset && i * cluster < offset + length)
      if (!named) throw new Error(`cluster ${i} of ${id ?? 'the disk'} reads otherwise, and nobody says so`)
    }
  }
}

function isSame(a: Buffer | VdiskError | undefined, b: Buffer): boolean {
  return Buffer.isBuffer(a) && a.equals(b)
}

async function tryOne(random: Random): Promise<string> {
  const clusterBits = random.chance(0.03) ? 12 : 9
  const image = await richImage(random, clusterBits)
  const { cluster } = image
  const wanted = await readingsOf(image.store(), cluster)
  const count = Math.ceil(image.bytes.length / cluster)
  // Everything but the guest's own bytes, which no repair can know.
  const tables = Array.from({ length: count }, (_, i) => i).filter((i) => isTable(image, i))
  const told = damage(random, image.bytes, cluster, tables)
  const store = image.store()
  const damaged = await readingsOf(image.store(), cluster)
  try {
    const report = await repairStore(store)
    await expectSound(store)
    expectSameBut(wanted, damaged, await readingsOf(store, cluster), report.doubtful, cluster)
    const before = contentOf(store)
    const second = await repairStore(store)
    expect(second.done).toEqual([])
    expect(Buffer.compare(before, contentOf(store))).toBe(0)
    return report.count === 0 ? 'nothing' : 'mended'
  } catch (error) {
    if (isVdiskError(error)) return `refused: ${error.message}`
    throw new Error(`after ${told.join(', ')}: ${String(error)}`, { cause: error })
  }
}

/** A cluster that holds no data of the guest. */
function isTable(image: CraftedImage, number: number): boolean {
  const first = image.bytes[number * image.cluster]
  const bytes = image.bytes.subarray(number * image.cluster, (number + 1) * image.cluster)
  return number <= PLACE.l2 || !bytes.every((byte) => byte === first) || first === 0
}

randomTest('is mended, or refused in words, after any damage to its tables', async (random) => {
  const outcomes = new Map<string, number>()
  const runs = Number(process.env.REPAIRS ?? 120)
  for (let i = 0; i < runs; i++) {
    const outcome = await tryOne(random)
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
  }
  if (process.env.REPAIRS) console.log([...outcomes].map(([what, n]) => `${n} ${what}`).join('\n'))
})
