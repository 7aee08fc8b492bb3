import { childOf } from '../../bytes/xml.ts'
import type { CheckReport } from '../../contracts/check-report.ts'
import type { Image } from '../../contracts/image.ts'
import { isVdiskError, reasonOf } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { Bundle } from './bundle.ts'
import { checkExpanding } from './check.ts'
import type { ImageEntry, StorageEntry } from './descriptor.ts'
import { kindOf } from './header.ts'
import { SECTOR } from './layout.ts'
import { ExpandingPart } from './part.ts'

/** Looks at the descriptor of a bundle and at every image file that it names, those of other branches too. */
export function* checkBundle(bundle: Bundle, report: CheckReport): Io<void> {
  checkGeometry(bundle, report)
  for (const storage of bundle.descriptor.storages) {
    for (const image of storage.images.values()) {
      if (bundle.descriptor.shots.has(image.guid)) yield* checkImage(bundle, storage, image, report)
      else
        note(
          report,
          'IMAGE_WITHOUT_STATE',
          'warning',
          `"${image.file}" is of state ${image.guid}, which is not in the tree`,
        )
    }
  }
  yield* checkUnnamed(bundle, report)
}

/** Files that a descriptor should name, or that an interrupted change has left: nobody can tell which. */
function* checkUnnamed({ image, descriptor }: Bundle, report: CheckReport): Io<void> {
  const entries = descriptor.storages.flatMap(({ images }) => [...images.values()])
  const named = new Set(entries.map(({ file }) => file.split(/[\\/]/).at(-1)))
  for (const name of image.namesBeside?.() ?? []) {
    if (!/\.hds$/i.test(name) || named.has(name) || !(yield* isExpanding(image, name))) continue
    const message = `"${name}" is an image that nothing names: remove it if you know that nobody misses it`
    note(report, 'FILE_UNNAMED', 'warning', message)
  }
}

function* isExpanding(image: Image, name: string): Io<boolean> {
  try {
    const store = yield* image.neighbour(name, 'read')
    try {
      const head = new Uint8Array(Math.min(SECTOR, yield* settle(store.size())))
      yield* settle(store.read(0, head))
      return kindOf(head) !== undefined
    } finally {
      yield* settle(store.close())
    }
  } catch (error) {
    if (!isVdiskError(error) || ['IO', 'CANCELLED'].includes(error.code)) throw error
    return false
  }
}

function* checkImage(bundle: Bundle, storage: StorageEntry, image: ImageEntry, report: CheckReport): Io<void> {
  try {
    const part = yield* bundle.files.open(image, 'read')
    const wanted = storage.end - storage.start
    if (part.size !== wanted) {
      const severity = part.size < wanted ? 'error' : 'warning'
      note(report, 'IMAGE_SIZE', severity, `"${image.file}" holds ${part.size} bytes, its storage has ${wanted}`)
    }
    if (!(part instanceof ExpandingPart)) return
    if (part.clusterSize !== storage.clusterSize) {
      const message = `"${image.file}" has clusters of ${part.clusterSize} bytes, Blocksize says ${storage.clusterSize}`
      note(report, 'BLOCKSIZE', 'warning', message)
    }
    yield* checkExpanding(part, report, { shift: storage.start, file: image.file })
  } catch (error) {
    if (!isVdiskError(error) || ['IO', 'CANCELLED'].includes(error.code)) throw error
    note(report, 'IMAGE_UNREADABLE', 'error', `"${image.file}": ${reasonOf(error)}`)
  }
}

function checkGeometry({ descriptor }: Bundle, report: CheckReport): void {
  const parameters = descriptor.element(descriptor.document.root, 'Disk_Parameters')
  const numbers = ['Cylinders', 'Heads', 'Sectors'].map((name) => Number(childOf(parameters, name)?.text ?? Number.NaN))
  const product = numbers.reduce((a, b) => a * b, 1)
  if (product * SECTOR === descriptor.size) return
  note(
    report,
    'GEOMETRY',
    'warning',
    `${numbers.join(' x ')} sectors are not the ${descriptor.size / SECTOR} that the disk has`,
  )
}

function note(report: CheckReport, code: string, severity: 'error' | 'warning', message: string): void {
  report.add({ code, severity, structure: 'DiskDescriptor.xml', message })
}
