import { expect } from 'vitest'
import { promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { VhdFile } from './vhd-file.ts'

/** Bytes of a block, and of a disk of six. */
export const BLOCK = 64 << 10
export const SIZE = 6 * BLOCK

/** A disk whose first four blocks hold content, the last two nothing. */
export async function written(): Promise<{ file: VhdFile; content: Uint8Array }> {
  const file = await VhdFile.make(SIZE)
  const content = new Uint8Array(SIZE)
  content.set(patternFor(0, 4 * BLOCK, 1))
  await file.fill(0, content.subarray(0, 4 * BLOCK))
  return { file, content }
}

/** Mends a file; afterwards the check finds nothing, it can be written, and to mend it again changes no byte. */
export async function expectMended(file: VhdFile): Promise<string[]> {
  const { done } = await file.repair()
  const lines = done.map(({ code, doubtful }) => (doubtful ? `${code} ${doubtful.offset}+${doubtful.length}` : code))
  if (done.some(({ doubtful }) => doubtful)) await file.repair()
  expect(await file.findings()).toEqual([])
  const { bytes } = file
  expect((await file.repair()).done).toEqual([])
  expect(Buffer.compare(file.bytes, bytes)).toBe(0)
  await promised((await file.write()).close())
  return lines
}

/** The header names so many bytes at a place as the data of a parent locator. ["Dynamic Disk Header Format"] */
export function nameLocator(file: VhdFile, at: number, length: number): void {
  file.editHeader((header) => {
    header.write('W2ku', 576)
    header.writeUInt32BE(length, 576 + 8)
    header.writeBigUInt64BE(BigInt(at), 576 + 16)
  })
}
