import { Chain } from '../../lib/chain/chain.ts'
import { promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { KIB, MIB, VhdxFile } from './vhdx-file.ts'

/** Bytes of the disks that are spoiled here. */
export const SIZE = 4 * MIB
export const GUID = '11111111-2222-4333-8444-555555555555'
/** Metadata items. [MS-VHDX 2.6.2] */
export const ITEM = {
  parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  size: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  id: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logical: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physical: 'cda348c7-445d-4471-9cc9-e9885251c556',
  locator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
}
/** What a child is told of a parent that nobody opens. */
export const PARENT = {
  path: 'p.vhdx',
  absolutePath: '/p.vhdx',
  format: 'vhdx',
  identity: { kind: 'guid' as const, value: GUID, current: true },
  record: { size: SIZE, stamp: undefined, sample: undefined },
  replaces: undefined,
}

/** A way to damage a file. */
export type Spoil = (file: VhdxFile) => unknown

/** A disk with two blocks of content and two of nothing. */
export async function written(options: Record<string, string> = {}): Promise<{ file: VhdxFile; content: Uint8Array }> {
  const file = await VhdxFile.make(SIZE, options)
  const content = new Uint8Array(SIZE)
  content.set(patternFor(0, 2 * MIB - 700, 3))
  const chain = new Chain([await file.write()])
  await promised(chain.write(0, content.subarray(0, 2 * MIB - 700)))
  await promised(chain.close())
  return { file, content }
}

/** Both headers without a checksum that fits. */
export const noHeaders: Spoil = (file) => [64, 128].map((k) => file.put(k * KIB + 4, Uint8Array.of(1, 2, 3, 4)))
export const wipeHeaders: Spoil = (file) => [64, 128].map((k) => file.put(k * KIB, new Uint8Array(4096)))
export const batPage = (file: VhdxFile): Uint8Array => file.bytes(file.bat.at, 4096)
