import { randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import { escapeXml } from '../../bytes/xml.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, settle } from '../../io/io.ts'
import { newFileName } from './bundle-snapshots.ts'
import { makeExpanding, type Plan } from './create.ts'
import { braced, USUAL_TOP } from './descriptor.ts'
import { imageXml, shotXml } from './descriptor-edit.ts'
import { SECTOR } from './layout.ts'

/** Makes the files of a bundle, and then the descriptor that names them, in the image's own file. [prl-xml] */
export function* createBundle(image: Image, plan: Plan): Io<void> {
  const { size, clusterSize, plain, piece } = plan
  const storages: string[] = []
  for (let start = 0, i = 0; start < size || i === 0; start += piece, i++) {
    const length = Math.min(piece, size - start)
    const file = newFileName(image.name, i)
    const store = yield* image.neighbour(file, 'create')
    try {
      if (plain) {
        yield* settle(store.truncate(length))
        yield* settle(store.flush())
      } else yield* makeExpanding(store, { size: length, clusterSize, kind: plan.kind })
    } finally {
      yield* settle(store.close())
    }
    storages.push(storageXml({ start, end: start + length, clusterSize }, file, plain ? 'Plain' : 'Compressed'))
  }
  yield* settle(image.store.write(0, new TextEncoder().encode(descriptorXml(image.name, plan, storages))))
  yield* settle(image.store.flush())
}

function descriptorXml(file: string, { size }: Plan, storages: readonly string[]): string {
  const folder = file.split(/[\\/]/).at(-2) ?? 'disk'
  const [heads, track] = size % (SECTOR * 512) === 0 ? [16, 32] : [1, 1]
  return `<?xml version='1.0' encoding='UTF-8'?>
<Parallels_disk_image Version="1.0">
    <Disk_Parameters>
        <Disk_size>${size / SECTOR}</Disk_size>
        <Cylinders>${size / SECTOR / (heads * track)}</Cylinders>
        <PhysicalSectorSize>4096</PhysicalSectorSize>
        <LogicSectorSize>512</LogicSectorSize>
        <Heads>${heads}</Heads>
        <Sectors>${track}</Sectors>
        <Padding>0</Padding>
        <Encryption>
            <Engine>${braced(ZERO_GUID)}</Engine>
            <Data></Data>
        </Encryption>
        <UID>${braced(randomGuid())}</UID>
        <Name>${escapeXml(folder.replace(/\.hdd$/i, ''))}</Name>
        <Miscellaneous>
            <CompatLevel>level2</CompatLevel>
            <Bootable>1</Bootable>
            <SuspendState>0</SuspendState>
        </Miscellaneous>
    </Disk_Parameters>
    <StorageData>
${indent(storages.join('\n'), 8)}
    </StorageData>
    <Snapshots>
${indent(shotXml(USUAL_TOP, ZERO_GUID), 8)}
    </Snapshots>
</Parallels_disk_image>
`
}

function storageXml(
  { start, end, clusterSize }: { start: number; end: number; clusterSize: number },
  file: string,
  type: string,
): string {
  return `<Storage>
    <Start>${start / SECTOR}</Start>
    <End>${end / SECTOR}</End>
    <Blocksize>${clusterSize / SECTOR}</Blocksize>
${indent(imageXml(USUAL_TOP, file, type), 4)}
</Storage>`
}

function indent(xml: string, by: number): string {
  return xml.replaceAll(/^(?=.)/gm, ' '.repeat(by))
}
