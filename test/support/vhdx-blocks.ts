import { Chain } from '../../lib/chain/chain.ts'
import type { Layer } from '../../lib/contracts/layer.ts'
import { promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { rawBase, rawParent } from './raw-base.ts'
import { MIB, VhdxFile } from './vhdx-file.ts'

/** Bytes of the disks whose blocks are damaged here. */
export const SIZE = 6 * MIB
export const BITMAP = 4096

/** A way to damage a file. */
export type Spoil = (file: VhdxFile) => unknown

/** What an entry of the BAT says: place and state; and where it stands. */
export const place = (entry: bigint): number => Number(entry & ~0xfffffn)
export const state = (entry: bigint): number => Number(entry & 7n)
export const at = (file: VhdxFile, index: number): number => file.bat.at + index * 8

/** A disk whose first four blocks hold content, the last two nothing. */
export async function written(options: Record<string, string> = {}): Promise<{ file: VhdxFile; content: Uint8Array }> {
  const file = await VhdxFile.make(SIZE, options)
  const content = new Uint8Array(SIZE)
  const chain = new Chain([await file.write()])
  for (let block = 0; block < 4; block++) {
    content.set(patternFor(0, MIB, block + 1), block * MIB)
    await promised(chain.write(block * MIB, content.subarray(block * MIB, (block + 1) * MIB)))
  }
  await promised(chain.close())
  return { file, content }
}

/** A child over a raw parent: block 1 is present in parts, block 2 as a whole, block 3 reads as zero. */
export async function child(size = SIZE): Promise<{ file: VhdxFile; content: Uint8Array; below: Layer[] }> {
  const base = await rawBase(SIZE)
  const file = await VhdxFile.make(size, {}, rawParent(SIZE))
  const content = new Uint8Array(size)
  await promised(new Chain([base]).read(0, content))
  const chain = new Chain([base, await file.write()])
  const write = async (offset: number, bytes: Uint8Array): Promise<void> => {
    content.set(bytes, offset)
    await promised(chain.write(offset, bytes))
  }
  await write(MIB + 4096, patternFor(0, 8192, 7))
  await write(MIB + 65536, patternFor(0, 512, 8))
  await write(2 * MIB, patternFor(0, MIB, 9))
  content.fill(0, 3 * MIB, 4 * MIB)
  await promised(chain.erase(3 * MIB, MIB))
  await promised(chain.close())
  return { file, content, below: [base] }
}

/** The same, with one block of zeros. */
export const zeroed = (content: Uint8Array, block: number): Uint8Array =>
  content.slice().fill(0, block * MIB, (block + 1) * MIB)
