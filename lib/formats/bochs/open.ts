import { isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { BochsLayer } from './layer.ts'
import {
  type BochsFields,
  ENTRY,
  header,
  MAGIC,
  MOST_ENTRIES,
  MOST_EXTENT,
  oldHeader,
  SECTOR,
  SUBTYPE,
  TYPE,
  VERSION,
} from './layout.ts'

/** @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openBochs(image: Image): Io<BochsLayer> {
  const { name, store } = image
  const end = yield* settle(store.size())
  if (end < SECTOR) throw refusal('CORRUPT', name, 'the file ends before its header does')
  const bytes = new Uint8Array(SECTOR)
  yield* settle(store.read(0, bytes))
  return new BochsLayer(image, fieldsIn(name, bytes, end), end)
}

function fieldsIn(file: string, bytes: Uint8Array, end: number): BochsFields {
  const { magic, type, subtype, version, headerSize, entries, bitmapSize, extentSize, size } = header.decode(bytes)
  if (magic !== MAGIC) throw refusal('CORRUPT', file, 'it is no image of Bochs')
  if (version !== VERSION.old && version !== VERSION.current) {
    throw refusal('UNSUPPORTED', file, `it is of version 0x${version.toString(16)} of the format`)
  }
  if (type !== TYPE || ![SUBTYPE.growing, ...SUBTYPE.logs].some((known) => known === subtype)) {
    const shown = `${type} ${subtype}`.replace(/[^ -~]/g, '?')
    throw refusal('UNSUPPORTED', file, `it is of the type "${shown}"; growing images and logs of changes are known`)
  }
  const diskSize = version === VERSION.old ? oldHeader.decode(bytes).size : size
  if (entries > MOST_ENTRIES) throw refusal('LIMIT_EXCEEDED', file, `its catalog would have ${entries} entries`)
  if (!isPowerOfTwo(extentSize) || extentSize < SECTOR || extentSize > MOST_EXTENT) {
    throw refusal('CORRUPT', file, `extents of ${extentSize} bytes cannot be`)
  }
  if (bitmapSize * 8 * SECTOR < extentSize || bitmapSize > MOST_EXTENT) {
    throw refusal('CORRUPT', file, `maps of ${bitmapSize} bytes do not fit to extents of ${extentSize}`)
  }
  if (headerSize < SECTOR || headerSize + entries * ENTRY > end) {
    throw refusal('CORRUPT', file, 'its catalog does not lie in the file')
  }
  if (diskSize > entries * extentSize) {
    throw refusal('CORRUPT', file, `its ${entries} extents do not hold a disk of ${diskSize} bytes`)
  }
  const bitmapBytes = roundUp(bitmapSize, SECTOR)
  const dataAt = headerSize + entries * ENTRY
  return { subtype, version, headerSize, entries, bitmapBytes, extentSize, size: diskSize, dataAt }
}

function refusal(code: ErrorCode, file: string, why: string): VdiskError {
  return new VdiskError(code, {
    message: `Cannot read ${file}: ${why}`,
    where: { file, structure: 'header', at: 0, section: 'redolog_header_t' },
    advice:
      code === 'UNSUPPORTED'
        ? 'Convert it with bximage.'
        : 'If there is another copy of the file, use the one that opens.',
  })
}
