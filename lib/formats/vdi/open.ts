import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { BlockMap } from './block-map.ts'
import { type Header, readHeader } from './header.ts'
import { VdiLayer, WritableVdiLayer } from './layer.ts'
import { VERSION } from './layout.ts'
import { Space } from './space.ts'

export function* openForReading(image: Image): Io<VdiLayer> {
  return new VdiLayer(image, yield* openMap(image))
}

export function* openForWriting(image: Image): Io<WritableVdiLayer> {
  const blocks = yield* openMap(image)
  refuseWriting(image.name, blocks.header)
  const space = yield* Space.survey(blocks, image)
  blocks.space = space
  return new WritableVdiLayer(image, blocks, space)
}

/** @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openMap({ name, store }: Image): Io<BlockMap> {
  const header = yield* readHeader(name, store)
  return new BlockMap(name, store, header, { end: yield* settle(store.size()) })
}

/** @throws VdiskError CORRUPT, UNSUPPORTED */
function refuseWriting(file: string, header: Header): void {
  refuseUnknown(file, header)
  if (!header.mapIsApart) {
    const where = { file, structure: 'block map', at: header.fields.mapAt }
    throw unsafeToWrite(file, 'its block map reaches into the header or the blocks', where)
  }
}

/** What is known well enough to be read, and not well enough to be kept true. @throws VdiskError UNSUPPORTED */
export function refuseUnknown(file: string, header: Header): void {
  const { version, blockExtra } = header.fields
  const why =
    version === VERSION.first
      ? 'it is of the first version of the format, which has no place for who changed it'
      : blockExtra !== 0
        ? `${blockExtra} bytes precede each of its blocks, and what they say is not known`
        : undefined
  if (why === undefined) return
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${file}: ${why}`,
    where: { file, structure: 'header', at: 0 },
    advice: 'It can be read and converted: vdisk convert IMAGE COPY --format vdi',
  })
}
