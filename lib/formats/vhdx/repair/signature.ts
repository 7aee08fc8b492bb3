import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import { spotIn } from '../damage.ts'
import { hasSignature, readHeaderCopies } from '../header.ts'
import { FILE_SIGNATURE } from '../layout.ts'
import { isValidTable, readRegionTables } from '../region-table.ts'

/**
 * Writes the file type identifier again, where a structure with a checksum proves that this is a VHDX file. [2.2.1]
 *
 * @throws VdiskError NOT_THIS_FORMAT if nothing proves it
 */
export function* mendSignature({ name, store }: Image, report: RepairReport): Io<void> {
  if (yield* hasSignature(store)) return
  const headers = yield* readHeaderCopies(store)
  const tables = yield* readRegionTables(store)
  if (!headers.some(({ isValid }) => isValid) && !tables.some(isValidTable)) {
    throw new VdiskError('NOT_THIS_FORMAT', {
      message: `Cannot repair ${name} as vhdx: neither its begin nor any checksum in it says that it is one`,
      where: spotIn(name, { structure: 'file type identifier', at: 0, section: '2.2.1' }),
    })
  }
  yield* settle(store.write(0, Buffer.from(FILE_SIGNATURE, 'latin1')))
  yield* settle(store.flush())
  report.add({
    code: 'SIGNATURE_DAMAGED',
    structure: 'file type identifier',
    at: 0,
    message: `"${FILE_SIGNATURE}" was written at the begin of the file again`,
  })
}
