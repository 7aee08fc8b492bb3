import { Chain } from '../../lib/chain/chain.ts'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import type { NewParent } from '../../lib/contracts/identity.ts'
import type { WritableLayer } from '../../lib/contracts/layer.ts'
import { RepairReport, type RepairScope } from '../../lib/contracts/repair.ts'
import { vmdk } from '../../lib/formats/vmdk/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { MemoryFolder } from './memory-image.ts'

/** A folder with an image `disk.vmdk`, and what is done to that. */

/** Begins a descriptor; the lines of its parts follow. */
export const HEAD = '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="custom"\n'

/** @param parts files beside the image `disk.vmdk`: their bytes, or how many zeros they are */
export function folderOf(
  content: Uint8Array | string,
  parts: Readonly<Record<string, Uint8Array | number>> = {},
): MemoryFolder {
  const folder = new MemoryFolder()
  const add = (name: string, bytes: Uint8Array): void =>
    void folder.files.set(name, new MemoryStore(name, { content: bytes }))
  add('disk.vmdk', typeof content === 'string' ? Buffer.from(content, 'latin1') : content)
  for (const [name, part] of Object.entries(parts)) add(name, typeof part === 'number' ? new Uint8Array(part) : part)
  return folder
}

export const image = (folder: MemoryFolder): ReturnType<MemoryFolder['image']> => folder.image('disk.vmdk')

export async function open(folder: MemoryFolder): Promise<WritableLayer> {
  return (await promised(vmdk.open(image(folder), 'write'))) as WritableLayer
}

export async function findings(folder: MemoryFolder): Promise<string[]> {
  const report = new CheckReport()
  await promised(vmdk.check(await promised(vmdk.open(image(folder), 'read')), report))
  return report.findings.map(({ severity, code }) => `${severity} ${code}`)
}

export async function repaired(folder: MemoryFolder, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised((vmdk.repair as NonNullable<typeof vmdk.repair>)(image(folder), report))
  return report
}

export async function content(folder: MemoryFolder): Promise<Uint8Array> {
  const layer = await promised(vmdk.open(image(folder), 'read'))
  const bytes = new Uint8Array(layer.size)
  await promised(new Chain([layer]).read(0, bytes))
  return bytes
}

export async function create(
  options: Readonly<Record<string, string>>,
  size: number,
  { parent, folder = new MemoryFolder() }: { parent?: NewParent | undefined; folder?: MemoryFolder } = {},
): Promise<WritableLayer> {
  const make = vmdk.create as NonNullable<typeof vmdk.create>
  return await promised(make(image(folder), { size, parent, options: new Map(Object.entries(options)) }))
}
