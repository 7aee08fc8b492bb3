import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { CloopLayer } from './layer.ts'
import { ENTRY, header, LIMIT, SCRIPT, SECTOR, VERSION } from './layout.ts'

/** @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openCloop(image: Image): Io<CloopLayer> {
  const { name, store } = image
  const end = yield* settle(store.size())
  if (end < header.size) throw refusal('CORRUPT', name, 'the file ends before its header does')
  const bytes = new Uint8Array(header.size)
  yield* settle(store.read(0, bytes))
  const { script, blockSize, blockCount } = header.decode(bytes)
  const version = SCRIPT.exec(script)?.[1]
  if (version === undefined) throw refusal('CORRUPT', name, 'it does not begin as a compressed loop device does')
  if (version !== VERSION) {
    throw refusal(
      'UNSUPPORTED',
      name,
      `it is of version ${version} of the format; ${VERSION}, packed by zlib, is known`,
    )
  }
  if (blockSize === 0 || blockSize % SECTOR !== 0)
    throw refusal('CORRUPT', name, `blocks of ${blockSize} bytes cannot be`)
  if (blockSize > LIMIT.blockBytes) throw refusal('LIMIT_EXCEEDED', name, `its blocks would have ${blockSize} bytes`)
  const length = (blockCount + 1) * ENTRY
  if (length > LIMIT.tableBytes) throw refusal('LIMIT_EXCEEDED', name, `it would have ${blockCount} blocks`)
  if (header.size + length > end) throw refusal('CORRUPT', name, 'the offsets of its blocks do not lie in the file')
  return new CloopLayer(image, { blockSize, blockCount, end })
}

function refusal(code: ErrorCode, file: string, why: string): VdiskError {
  return new VdiskError(code, {
    message: `Cannot read ${file}: ${why}`,
    where: { file, structure: 'header', at: 0, section: 'cloop_head' },
    advice:
      code === 'UNSUPPORTED'
        ? 'Unpack it with the program that made it: extract_compressed_fs'
        : 'If there is another copy of the file, use the one that opens.',
  })
}
