import { expect } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import { CheckReport, type Finding } from '../../lib/contracts/check-report.ts'
import type { Image } from '../../lib/contracts/image.ts'
import { RepairReport, type RepairScope } from '../../lib/contracts/repair.ts'
import type { VdiskError } from '../../lib/errors.ts'
import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import type { Qcow2Layer } from '../../lib/formats/qcow2/layer.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { openStore } from './crafted-qcow2.ts'
import { MemoryFolder } from './memory-image.ts'
import { contentOf } from './stores.ts'

/** A store as an image that says what it is opened without. */
function imageOf(store: ByteStore, leaveOut?: (damage: VdiskError) => void): Image {
  const folder = new MemoryFolder()
  folder.files.set('crafted', store)
  return { ...folder.image('crafted'), leaveOut }
}

/** Repairs a store as a qcow2 image. */
export async function repairStore(store: ByteStore, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised(qcow2.repair?.(imageOf(store), report) as never)
  return report
}

/** Opens a store without what is damaged and not needed. */
export async function salvageStore(store: ByteStore): Promise<{ layer: Qcow2Layer; leftOut: VdiskError[] }> {
  const leftOut: VdiskError[] = []
  const layer = (await promised(
    qcow2.open(
      imageOf(store, (damage) => leftOut.push(damage)),
      'read',
    ),
  )) as Qcow2Layer
  return { layer, leftOut }
}

/** What a check finds that is no warning, with what the image cannot be opened with: as the verb has it. */
export async function damageOf(store: ByteStore): Promise<string[]> {
  const { layer, leftOut } = await salvageStore(store)
  const report = new CheckReport()
  await promised(qcow2.check(layer, report))
  const told = report.findings.filter(({ severity }: Finding) => severity !== 'warning').map(({ code }) => code)
  return [...new Set([...leftOut.map(() => 'LEFT_OUT'), ...told])].sort()
}

/** The disk, and each internal snapshot by its id, as far as they can be read, granule by granule. */
export async function contentsOf(store: ByteStore): Promise<Map<string | undefined, Buffer>> {
  const { layer } = await salvageStore(store)
  const all = new Map<string | undefined, Buffer>()
  const read = async (one: Qcow2Layer): Promise<Buffer> => {
    const bytes = Buffer.alloc(one.size)
    await promised(new Chain([one], { readOnly: true }).read(0, bytes))
    return bytes
  }
  all.set(undefined, await read(layer))
  for (const { id } of layer.snapshots.list()) {
    all.set(id, await read((await promised(layer.snapshots.open(id))) as Qcow2Layer))
  }
  return all
}

/** A check finds nothing, and the image opens for writing. */
export async function expectSound(store: MemoryStore): Promise<void> {
  expect(await damageOf(store)).toEqual([])
  const copy = new MemoryStore('crafted', { content: contentOf(store) })
  await promised(openStore(copy, 'write').close())
}
