import { expect } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import type { Layer } from '../../lib/contracts/layer.ts'
import { RepairReport, type RepairScope } from '../../lib/contracts/repair.ts'
import { isVdiskError, type VdiskError } from '../../lib/errors.ts'
import { vhdx } from '../../lib/formats/vhdx/driver.ts'
import type { VhdxLayer } from '../../lib/formats/vhdx/layer.ts'
import { promised } from '../../lib/io/io.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { checkLayer } from '../contract/driver-contract.ts'
import { contentOf } from './stores.ts'
import type { VhdxFile } from './vhdx-file.ts'

const SECTOR = 512
/** Read at once, as long as nothing of it is damaged. */
const PIECE = 65536

/** Repairs a file. @param store something between the repair and the file */
export async function repair(file: VhdxFile, scope: RepairScope = 'all', store?: ByteStore): Promise<RepairReport> {
  const report = new RepairReport(scope)
  const image = file.folder.image('a')
  await promised((vhdx.repair as NonNullable<typeof vhdx.repair>)(store ? { ...image, store } : image, report))
  return report
}

/** Opens a file for reading, leaving out what can be left out. @returns what was told, too */
export async function salvage(file: VhdxFile): Promise<{ layer: VhdxLayer; told: VdiskError[] }> {
  const told: VdiskError[] = []
  const image = { ...file.folder.image('a'), leaveOut: (damage: VdiskError) => told.push(damage) }
  return { layer: (await promised(vhdx.open(image, 'read'))) as VhdxLayer, told }
}

/** Codes of all findings of a check, each as often as it was found. */
export async function findings(file: VhdxFile): Promise<string[]> {
  return (await checkLayer(vhdx, await file.read())).findings.map(({ code }) => code)
}

/** What the guest reads, sector by sector; undefined where that fails with CORRUPT. */
export async function sectorsOf(layer: Layer, below: readonly Layer[] = []): Promise<(Uint8Array | undefined)[]> {
  const chain = new Chain([...below, layer])
  const read = async (offset: number, length: number): Promise<Uint8Array | undefined> => {
    const bytes = new Uint8Array(Math.min(length, layer.size - offset))
    try {
      await promised(chain.read(offset, bytes))
      return bytes
    } catch (error) {
      if (isVdiskError(error, 'CORRUPT')) return undefined
      throw error
    }
  }
  const sectors: (Uint8Array | undefined)[] = []
  for (let offset = 0; offset < layer.size; offset += PIECE) {
    const piece = await read(offset, PIECE)
    for (let at = offset; at < Math.min(layer.size, offset + PIECE); at += SECTOR) {
      sectors.push(piece ? piece.subarray(at - offset, at - offset + SECTOR) : await read(at, SECTOR))
    }
  }
  return sectors
}

type Range = { readonly offset: number; readonly length: number }

/** All that a repair calls doubtful. */
export function namedBy(report: RepairReport): Range[] {
  return report.done.flatMap(({ doubtful }) => doubtful ?? [])
}

/** Offsets of sectors that are not as wanted, outside of what is named as doubtful. */
export function strayOffsets(
  found: readonly (Uint8Array | undefined)[],
  wanted: Uint8Array,
  named: readonly Range[],
): number[] {
  const stray: number[] = []
  for (const [i, bytes] of found.entries()) {
    const offset = i * SECTOR
    if (named.some((range) => offset < range.offset + range.length && offset + SECTOR > range.offset)) continue
    if (!bytes || Buffer.compare(bytes, wanted.subarray(offset, offset + SECTOR)) !== 0) stray.push(offset)
  }
  return stray
}

/**
 * Repairs a file, and asserts what holds of every repair: afterwards the check finds nothing, the guest reads what it
 * should outside of what is named, and to repair again changes no byte. Only where something is doubtful, room that may
 * hold what was lost is left to the next repair.
 *
 * @param wanted the content of the disk
 */
export async function expectMended(
  file: VhdxFile,
  wanted: Uint8Array,
  below: readonly Layer[] = [],
): Promise<RepairReport> {
  const report = await repair(file)
  if (report.done.some(({ doubtful }) => doubtful)) {
    const codes = new Set([...(await findings(file)), ...(await repair(file)).done.map(({ code }) => code)])
    expect([...codes].filter((code) => code !== 'ROOM_UNUSED')).toEqual([])
  }
  expect(await findings(file)).toEqual([])
  expect(strayOffsets(await sectorsOf(await file.read(), below), wanted, namedBy(report)).slice(0, 5)).toEqual([])
  const before = contentOf(file.store)
  expect((await repair(file)).done).toEqual([])
  expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  const layer = await file.write()
  await promised(layer.close())
  return report
}

/** Code, place and doubtful range of everything that was done, one line each. */
export function linesOf(report: RepairReport): string[] {
  return report.done.map(({ code, at, doubtful }) =>
    [code, at, doubtful && `${doubtful.offset}+${doubtful.length}`].filter((part) => part !== undefined).join(' '),
  )
}
