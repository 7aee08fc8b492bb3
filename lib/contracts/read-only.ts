import { VdiskError } from '../errors.ts'
import type { Io } from '../io/io.ts'
import type { CheckReport } from './check-report.ts'
import type { FormatDriver, Supports } from './driver.ts'
import type { Image } from './image.ts'
import type { Layer } from './layer.ts'

/** What there is to say of a format that vdisk reads, and does not write. */
interface ReadOnlyFormat<L extends Layer>
  extends Pick<FormatDriver, 'name' | 'extensions' | 'folderEntry' | 'probe' | 'inspector'>,
    Partial<Pick<Supports, 'parent' | 'compression' | 'sizeUnit' | 'maxSize'>> {
  /** what messages call it; default its name */
  readonly called?: string
  open(image: Image): Io<L>
  /** undefined: it has no structure that could be wrong */
  check?(layer: L, report: CheckReport): Io<void>
}

/** The driver of such a format. */
export function readOnlyDriver<L extends Layer>(format: ReadOnlyFormat<L>): FormatDriver {
  const { name, called = name, extensions, folderEntry, probe, inspector } = format
  const { parent = false, compression = [], sizeUnit = 512, maxSize = Number.MAX_SAFE_INTEGER } = format
  return {
    name,
    extensions,
    supports: {
      write: false,
      create: false,
      parent,
      erase: false,
      snapshots: false,
      bitmaps: false,
      compression,
      sizeUnit,
      maxSize,
    },
    ...(folderEntry === undefined ? {} : { folderEntry }),
    createOptions: [],
    probe,
    *open(image, access) {
      if (access === 'write') throw refuseToWrite(image.name, called)
      return yield* format.open(image)
    },
    checks: format.check !== undefined,
    *check(layer, report) {
      // Only what this driver has opened comes here.
      if (format.check) yield* format.check(layer as L, report)
    },
    ...(inspector && { inspector }),
  }
}

/** Whether a file begins with these characters. */
export function beginsWith(head: Uint8Array, signature: string): 'yes' | 'no' {
  return Buffer.from(head.subarray(0, signature.length)).toString('latin1') === signature ? 'yes' : 'no'
}

/** The error of an image of a format that vdisk reads, and does not write. */
function refuseToWrite(file: string, format: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot write ${file}: vdisk only reads ${format} images`,
    where: { file },
    advice: 'Make an image of it that can be written: vdisk convert IMAGE COPY --format qcow2',
  })
}
