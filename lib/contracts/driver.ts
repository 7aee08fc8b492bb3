import type { Io } from '../io/io.ts'
import type { CheckReport } from './check-report.ts'
import type { NewParent } from './identity.ts'
import type { Image, Sample } from './image.ts'
import type { Inspector } from './inspection.ts'
import type { Layer, WritableLayer } from './layer.ts'
import type { RepairReport } from './repair.ts'

/** inspect: metadata only, no file but this one is opened; read; write. */
export type Access = 'inspect' | 'read' | 'write'

/** What a driver can do: shown to users, and steers which contract tests run. */
export interface Supports {
  readonly write: boolean
  readonly create: boolean
  /** can be the child of another layer */
  readonly parent: boolean
  /** a granule can be made to read as zero without writing it */
  readonly erase: boolean
  readonly snapshots: boolean
  readonly bitmaps: boolean
  readonly compression: readonly string[]
  /** sizes are multiples of this many bytes */
  readonly sizeUnit: number
  readonly maxSize: number
}

/** An option of `vdisk create -o name=value`. */
export interface CreateOption {
  readonly name: string
  readonly values: 'size' | 'switch' | 'text' | readonly string[]
  readonly initial: string | undefined
  readonly help: string
}

/** The disk to be made. */
export interface CreateShape {
  /** bytes */
  readonly size: number
  readonly parent: NewParent | undefined
  /** by option name; unknown names are refused */
  readonly options: ReadonlyMap<string, string>
  /** an image of that name is there, and keeps its files until the new one is complete: no file may take the name of one of those */
  readonly replaces?: boolean | undefined
}

export interface FormatDriver {
  readonly name: string
  /** usual endings of file names, with the dot */
  readonly extensions: readonly string[]
  readonly supports: Supports
  /** By the format's rules every program that writes changes the identity of the content, so that no other's writes go unnoticed. */
  readonly noticesWriters?: boolean
  /** An image may be a folder: the file in it that stands for the image, which is the one that is probed and opened. */
  readonly folderEntry?: string
  /** Whether an image with these options is made as a folder; undefined: never. */
  createsFolder?(options: ReadonlyMap<string, string>): boolean
  readonly createOptions: readonly CreateOption[]
  /** Pure: looks at nothing but the sample. 'perhaps' never outweighs a 'yes'. */
  probe(sample: Sample): 'yes' | 'perhaps' | 'no'
  /** @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
  open(image: Image, access: Access): Io<Layer>
  /** Makes an image in a store that is empty. */
  create?(image: Image, shape: CreateShape): Io<WritableLayer>
  /** false: the format has no structure that could be wrong */
  readonly checks: boolean
  /** Looks for everything that is wrong with the structure of one layer; changes nothing. */
  check(layer: Layer, report: CheckReport): Io<void>
  /**
   * Mends what `check` would find, as far as the report's scope allows; what it cannot mend it leaves. It is given a store
   * that can be written, and reads the image by itself, for what is damaged may not open otherwise; the caller closes the
   * store. After a crash at any moment nothing reads worse than before, and the repair can be begun again. What is mended
   * may show what else is wrong; where nothing is, it has nothing to do, and writes nothing.
   *
   * @throws VdiskError where so much is lost that no way to mend it would not be a guess; then, too, nothing is worse
   */
  repair?(image: Image, report: RepairReport): Io<void>
  /** Judges files of the format that may be from anybody; without it there is nothing to judge. */
  readonly inspector?: Inspector
}
