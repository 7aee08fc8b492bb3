import { isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { formatSize, parseSize } from '../../bytes/size.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateShape } from '../../contracts/driver.ts'
import type { NewParent } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, settle } from '../../io/io.ts'
import { createOptions, SUBFORMATS, type Subformat } from './create-options.ts'
import type { Descriptor } from './descriptor.ts'
import type { ExtentLine } from './descriptor-line.ts'
import type { WritableVmdkLayer } from './layer.ts'
import { GRAIN, MOST_EXTENTS, MOST_SPARSE, SECTOR } from './layout.ts'
import { linkedTo } from './linkage.ts'
import { newDescriptor } from './new-descriptor.ts'
import { extentName, fillExtent, lastPart, makeFile, stemOf, stemsFor } from './new-extent.ts'
import { withLongContentId } from './session.ts'
import { layOutSparse } from './sparse-layout.ts'
import { createStream, STREAM_GRAIN } from './stream/create-stream.ts'

/** Grains that a new file may have. */
const MOST_GRAIN = 1 << 20

interface Plan {
  readonly subformat: Subformat
  /** bytes */
  readonly size: number
  readonly grainBytes: number
  readonly extentBytes: number
  readonly zeroedGrains: boolean
  readonly preallocation: string
  readonly disk: { readonly adapterType: string; readonly hwVersion: string; readonly toolsVersion: string }
  readonly parent: NewParent | undefined
}

/**
 * Makes an image: every file that holds a part of the disk, complete and durable, and last what makes an image of them:
 * the descriptor, or the header of the one file.
 *
 * @param open opens what was made, for writing
 */
export function* createVmdk(
  image: Image,
  shape: CreateShape,
  open: () => Io<WritableVmdkLayer>,
): Io<WritableVmdkLayer> {
  const plan = makePlan(image.name, shape)
  if (plan.subformat === 'monolithicSparse') {
    const lines = [lineOf(plan, plan.size, lastPart(image.name))]
    const descriptor = describe(image.name, plan, lines).encode()
    const { size, grainBytes, zeroedGrains } = plan
    yield* layOutSparse(image.store, { size, grainBytes, zeroedGrains, descriptor })
  } else if (plan.subformat === 'streamOptimized') {
    const lines = [lineOf(plan, plan.size, lastPart(image.name))]
    yield* createStream(image.store, plan.size, withLongContentId(describe(image.name, plan, lines)).encode())
  } else {
    const lines = yield* makeExtents(image, plan, shape.replaces === true)
    yield* settle(image.store.write(0, describe(image.name, plan, lines).encode()))
    yield* settle(image.store.flush())
  }
  return yield* open()
}

function makePlan(file: string, shape: CreateShape): Plan {
  const options = new CreateOptions(file, 'vmdk', createOptions, shape.options)
  const subformat = options.text('subformat') as Subformat
  const { grain: usualGrain } = SUBFORMATS[subformat]
  const isSparse = usualGrain !== undefined
  const isStream = subformat === 'streamOptimized'
  const size = roundUp(shape.size, SECTOR)
  const grainBytes = options.has('grain_size') ? options.size('grain_size') : (parseSize(usualGrain ?? '64K') as number)
  const leastGrain = subformat === 'vmfsSparse' ? SECTOR : GRAIN.least * SECTOR
  const extentBytes = SUBFORMATS[subformat].isSplit ? options.size('extent_size') : Math.max(size, SECTOR)
  const zeroedGrains = options.on('zeroed_grain')
  const preallocation = options.text('preallocation')
  if (!isPowerOfTwo(grainBytes) || grainBytes < leastGrain || grainBytes > MOST_GRAIN) {
    const advice = `Choose a power of two from ${formatSize(leastGrain)} to 1M.`
    options.refuse(`grain_size cannot be ${options.text('grain_size')}`, advice)
  }
  if (extentBytes === 0 || extentBytes % (isSparse ? grainBytes : SECTOR) !== 0) {
    if (SUBFORMATS[subformat].isSplit) options.refuse('extent_size must be a multiple of the size of grains')
  }
  if (isSparse && !isStream && Math.min(size, extentBytes) > MOST_SPARSE) {
    options.refuse(
      'a sparse file of a VMDK has less than 2 TiB',
      'Choose subformat=twoGbMaxExtentSparse or monolithicFlat.',
    )
  }
  if (size > extentBytes * MOST_EXTENTS) {
    options.refuse(`it would consist of more than ${MOST_EXTENTS} files`, 'Choose subformat=monolithicFlat.')
  }
  if (!isSparse && shape.parent) options.refuse('a flat disk has no place for a parent', 'Choose a sparse subformat.')
  if (isStream && (grainBytes !== STREAM_GRAIN || zeroedGrains)) {
    options.refuse('importers want streams with grains of 64K, and none that are marked as zero')
  }
  if (isStream && shape.parent) options.refuse('a stream holds a whole disk', 'Choose another subformat for a child.')
  if (!isSparse && zeroedGrains) options.refuse('a flat disk has no grains', 'Leave zeroed_grain away.')
  if (subformat === 'vmfsSparse' && zeroedGrains) {
    options.refuse('the delta disks of ESX have no mark for grains of zeros', 'Leave zeroed_grain away.')
  }
  if (isSparse && preallocation !== 'off') options.refuse(`preallocation=${preallocation} needs a flat subformat`)
  for (const name of ['hwversion', 'toolsversion']) {
    if (/[^0-9]/.test(options.text(name))) options.refuse(`${name} cannot be "${options.text(name)}"`, 'Give a number.')
  }
  const { parent } = shape
  return {
    subformat,
    size,
    grainBytes,
    extentBytes,
    zeroedGrains,
    preallocation,
    disk: diskOf(options, parent),
    parent,
  }
}

/** What belongs to the disk and not to the file: the child of a VMDK has it from its parent. */
function diskOf(options: CreateOptions, parent: NewParent | undefined): Plan['disk'] {
  const inherited = (key: string): string | undefined => {
    const value = parent?.format === 'vmdk' ? parent.details?.[key] : undefined
    return typeof value === 'string' && /^[0-9a-z]{1,20}$/i.test(value) ? value : undefined
  }
  const hwVersion = options.on('compat6') ? '6' : options.text('hwversion')
  return {
    adapterType: options.text('adapter_type') || (inherited('adapterType') ?? 'ide'),
    hwVersion: hwVersion || (inherited('hardwareVersion') ?? '4'),
    toolsVersion: options.text('toolsversion'),
  }
}

function describe(file: string, plan: Plan, lines: readonly ExtentLine[]): Descriptor {
  const descriptor = newDescriptor(file, { createType: plan.subformat, size: plan.size, ...plan.disk }, lines)
  return plan.parent ? linkedTo(descriptor, plan.parent) : descriptor
}

function lineOf(plan: Plan, length: number, file: string): ExtentLine {
  return { access: 'RW', sectors: length / SECTOR, type: SUBFORMATS[plan.subformat].type, file, offset: 0 }
}

/** Makes the files beside the descriptor. */
function* makeExtents(image: Image, plan: Plan, replaces: boolean): Io<ExtentLine[]> {
  const { isSplit, type } = SUBFORMATS[plan.subformat]
  const lines: ExtentLine[] = []
  let stem: string | undefined
  let done = 0
  do {
    const length = Math.min(plan.extentBytes, plan.size - done)
    const ending = type === 'VMFSSPARSE' ? 'delta' : 'flat'
    const nameFor = (chosen: string): string =>
      isSplit ? extentName(chosen, type === 'SPARSE' ? 's' : 'f', lines.length + 1) : `${chosen}-${ending}.vmdk`
    const stems = stem === undefined ? stemsFor(stemOf(image.name), replaces) : [stem]
    const made = yield* makeFile(image, stems, nameFor)
    stem = made.stem
    yield* fillExtent(image, { ...plan, type }, made.store, length)
    lines.push(lineOf(plan, length, nameFor(stem)))
    done += length
  } while (done < plan.size)
  return lines
}
