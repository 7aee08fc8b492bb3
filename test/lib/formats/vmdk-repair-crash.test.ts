import { expect, test } from 'vitest'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { RepairReport } from '../../../lib/contracts/repair.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised, settle } from '../../../lib/io/io.ts'
import { randomSubset } from '../../crash/choices.ts'
import { CrashFolder, Medium } from '../../crash/crash-folder.ts'
import { CrashStates, pendingAt } from '../../crash/crash-state.ts'
import { PagedFile } from '../../crash/paged-file.ts'
import { printSeed, randomFor } from '../../support/random.ts'
import { cowdOf, deltaDescriptor } from '../../support/vmdk-esx.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'

printSeed()

const MIB = 1 << 20
const GRAIN = 4096
const SECTOR = 512

/** Files by name; the image is 'disk.vmdk'. Grain 2 of it is always sound. */
type Made = Readonly<Record<string, Uint8Array>>

async function hosted(damage: (file: VmdkFile) => unknown): Promise<Made> {
  const file = await VmdkFile.make(5 * MIB, [0, 1, 2])
  await damage(file)
  return { 'disk.vmdk': Uint8Array.from(file.bytes) }
}

function delta(damage: (bytes: Buffer) => unknown): Made {
  const capacity = 2 * 4096
  const grains = [0, 1, 2, 4100].map((grain) => [grain, Buffer.alloc(SECTOR, 1 + (grain % 255))] as const)
  const bytes = cowdOf(capacity, new Map(grains))
  damage(bytes)
  const text = deltaDescriptor('VMFSSPARSE', capacity, 'disk-delta.vmdk')
  return { 'disk.vmdk': Buffer.from(text), 'disk-delta.vmdk': bytes }
}

/** Byte of a delta where its first table lies. */
const TABLE_AT = 5 * SECTOR

const CASES: readonly (readonly [string, number, () => Promise<Made> | Made])[] = [
  ['grains in one place', GRAIN, () => hosted((file) => file.setEntry(1, file.entry(0), 'both'))],
  ['a grain past the end', GRAIN, () => hosted((file) => file.setEntry(0, 2 ** 31, 'both'))],
  ['a table that differs from its copy', GRAIN, () => hosted((file) => file.setEntry(1, 0, 'copy'))],
  ['a directory past the end', GRAIN, () => hosted((file) => file.patch({ directoryOffset: 2n ** 33n }))],
  ['a line that means nothing', GRAIN, () => hosted((file) => file.describe(`${file.descriptor}\nwhat?\n`))],
  [
    'no content id, and a file that is open',
    GRAIN,
    () =>
      hosted((file) => {
        file.patch({ unclean: 1 })
        file.describe(file.descriptor.replace(/CID=\w+\n/, ''))
      }),
  ],
  [
    'grains of a delta in one place',
    SECTOR,
    () => delta((bytes) => bytes.writeUInt32LE(bytes.readUInt32LE(TABLE_AT), TABLE_AT + 4)),
  ],
  [
    'a grain of a delta in its header, which calls content free',
    SECTOR,
    () =>
      delta((bytes) => {
        bytes.writeUInt32LE(3, TABLE_AT)
        bytes.writeUInt32LE(9, 28)
        bytes.writeUInt32LE(1, 1648)
      }),
  ],
]

async function repair(folder: CrashFolder): Promise<number> {
  const report = new RepairReport('all')
  await promised((vmdk.repair as NonNullable<typeof vmdk.repair>)(folder.image('disk.vmdk'), report))
  return report.count
}

async function examine(folder: CrashFolder, grainBytes: number): Promise<void> {
  const layer = await promised(vmdk.open(folder.image('disk.vmdk'), 'write'))
  const report = new CheckReport()
  await promised(vmdk.check(layer, report))
  expect(report.findings.map(({ code }) => code)).toEqual([])
  const extent = await promised(layer.map(2 * grainBytes, grainBytes))
  const bytes = new Uint8Array(grainBytes)
  if (extent.kind === 'data') await promised(settle(extent.store.read(extent.at, bytes)))
  expect(bytes.every((byte) => byte === 3)).toBe(true)
  await promised(layer.close())
}

test.each(CASES)(
  'a repair that is cut short at any step is finished by the next: %s',
  async (what, grainBytes, make) => {
    const made = Object.entries(await make())
    const files = new Map(made.map(([, bytes], index) => [index + 1, fileOf(bytes)]))
    const start = new Medium(new Map(made.map(([name], index) => [name, index + 1])), files)
    const played = new CrashFolder(start)
    expect(await repair(played)).toBeGreaterThan(0)
    const random = randomFor(what)
    const states = new CrashStates(start, played.log, SECTOR)
    for (let end = 0; end <= played.log.length; end++) {
      const pending = pendingAt(played.log, end).map((index) => ({ index }))
      const some = Array.from({ length: 4 }, () => randomSubset(played.log, pending, SECTOR, random))
      for (const kept of [pending, [], ...some]) {
        const folder = new CrashFolder(states.after({ end, kept }).medium)
        await repair(folder)
        // Room in which lost content may be stays until the next time.
        await repair(folder)
        expect(await repair(folder)).toBe(0)
        await examine(folder, grainBytes)
      }
    }
  },
)

function fileOf(bytes: Uint8Array): PagedFile {
  const file = new PagedFile()
  file.write(0, bytes)
  return file
}
