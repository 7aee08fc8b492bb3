import { type PlistDictionary, parsePlist } from '../../bytes/plist.ts'
import type { Image } from '../../contracts/image.ts'
import { type ErrorCode, isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { BandFiles } from './band-files.ts'
import { SparseBundleLayer } from './layer.ts'
import { BUNDLE_TYPE, DESCRIPTION, type Description, ENCRYPTED, KEY, LIMIT, SECTOR, TOKEN } from './layout.ts'

/** @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openSparseBundle(image: Image): Io<SparseBundleLayer> {
  const length = yield* settle(image.store.size())
  if (length > LIMIT.descriptionBytes) {
    throw refusal('LIMIT_EXCEEDED', image.name, `its description has ${length} bytes`)
  }
  const bytes = new Uint8Array(length)
  yield* settle(image.store.read(0, bytes))
  const description = readDescription(image.name, bytes)
  if (yield* isEncrypted(image)) {
    throw refusal('UNSUPPORTED', image.name, 'it is an encrypted image of macOS')
  }
  const files = new BandFiles(image, description.bandSize, description.size)
  return new SparseBundleLayer(image, description, files)
}

/** @throws VdiskError NOT_THIS_FORMAT, CORRUPT, and what reading a property list throws */
export function readDescription(file: string, bytes: Uint8Array): Description {
  const list = parsePlist(bytes, { file, structure: DESCRIPTION, most: LIMIT.descriptionBytes })
  if (list.get(KEY.type) !== BUNDLE_TYPE) throw refusal('NOT_THIS_FORMAT', file, 'it describes no sparse bundle')
  const bandSize = numberOf(file, list, KEY.bandSize)
  const size = numberOf(file, list, KEY.size)
  if (bandSize === 0 || bandSize % SECTOR !== 0 || bandSize > LIMIT.bandBytes) {
    throw refusal('CORRUPT', file, `bands of ${bandSize} bytes cannot be`)
  }
  if (size > LIMIT.diskBytes) throw refusal('LIMIT_EXCEEDED', file, `its disk would have ${size} bytes`)
  return { bandSize, size }
}

/** Both the programs that write a number and those that write it as text are right. */
function numberOf(file: string, list: PlistDictionary, key: string): number {
  const value = Number(list.get(key) ?? Number.NaN)
  if (!Number.isSafeInteger(value) || value < 0) throw refusal('CORRUPT', file, `its "${key}" is no size`)
  return value
}

function* isEncrypted(image: Image): Io<boolean> {
  try {
    const token = yield* image.neighbour(TOKEN, 'read')
    try {
      const head = new Uint8Array(Math.min(ENCRYPTED.length, yield* settle(token.size())))
      yield* settle(token.read(0, head))
      return Buffer.from(head).toString('latin1') === ENCRYPTED
    } finally {
      yield* settle(token.close())
    }
  } catch (error) {
    if (isVdiskError(error, 'NOT_FOUND')) return false
    throw error
  }
}

const OTHER_COPY = 'If there is another copy of the bundle, use the one that opens.'
/** What a user can do next. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  NOT_THIS_FORMAT: 'To see what it is: vdisk inspect IMAGE --untrusted',
  UNSUPPORTED: 'Decrypt it on a Mac: hdiutil convert IMAGE -format UDZO -o NEW',
}

function refusal(code: ErrorCode, file: string, why: string): VdiskError {
  const where = { file, structure: DESCRIPTION }
  return new VdiskError(code, { message: `Cannot open ${file}: ${why}`, where, advice: ADVICE[code] ?? OTHER_COPY })
}
