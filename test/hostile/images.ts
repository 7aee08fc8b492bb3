import fs from 'node:fs'
import path from 'node:path'
import { ParentLocator } from '../../lib/formats/vhdx/locator.ts'
import type { CraftedImage } from '../support/crafted-qcow2.ts'
import { VhdxFile } from '../support/vhdx-file.ts'

const LOCATOR = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c'
const MIB = 1 << 20

/** Writes bytes to a file, or the crafted image. @param size bytes of a file that is longer, its rest a hole */
export function put(
  folder: string,
  name: string,
  content: Uint8Array | CraftedImage | VhdxFile,
  size?: number,
): string {
  const file = path.join(folder, name)
  if (content instanceof VhdxFile) writeSparse(file, content)
  else fs.writeFileSync(file, 'bytes' in content ? content.bytes : content)
  if (size !== undefined) fs.truncateSync(file, size)
  return file
}

function writeSparse(file: string, { store }: VhdxFile): void {
  const fd = fs.openSync(file, 'w')
  const size = store.size()
  for (let at = 0; at < size; at += MIB) {
    const bytes = new Uint8Array(Math.min(MIB, size - at))
    store.read(at, bytes)
    if (bytes.some((byte) => byte !== 0)) fs.writeSync(fd, bytes, 0, bytes.length, at)
  }
  fs.ftruncateSync(fd, size)
  fs.closeSync(fd)
}

/** A differencing file whose locator says these things, and nothing else. */
export async function vhdxChild(pairs: Readonly<Record<string, string>>): Promise<VhdxFile> {
  const record = { size: 4 * MIB, stamp: undefined, sample: undefined }
  const identity = { kind: 'guid', value: '01234567-89ab-4cde-8f01-23456789abcd', current: true } as const
  const parent = { path: 'p', absolutePath: '/p', format: 'vhdx', identity, record, replaces: undefined }
  const file = await VhdxFile.make(4 * MIB, {}, parent)
  const bytes = new ParentLocator(new Map(Object.entries(pairs))).encode('a')
  const { entryAt, at } = file.item(LOCATOR)
  file.edit(entryAt, 32, -1, (view) => view.setUint32(20, bytes.length, true))
  file.put(at, bytes)
  return file
}
