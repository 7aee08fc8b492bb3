import { roundUp } from '../../bytes/align.ts'
import { formatSize } from '../../bytes/size.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just } from '../../io/io.ts'
import type { Descriptor } from './descriptor.ts'
import { type ExtentLine, encodedName } from './descriptor-line.ts'
import type { VmdkEditor } from './editor.ts'
import { type ExtentFile, isWritableExtent, type WritableExtentFile } from './extent-file.ts'
import { openExtent } from './extent-types.ts'
import { MOST_EXTENTS, MOST_SPARSE, MOST_SPLIT, SECTOR } from './layout.ts'
import { geometryOf } from './new-descriptor.ts'
import { extentName, fillExtent, makeFile, stemOf, stemsFor } from './new-extent.ts'
import { findSharedParts, wordsOf } from './shared-parts.ts'

/**
 * Changes the disk's size, durably and in one step. That is the header of the one file, whose descriptor follows; or the
 * descriptor, when all files are ready to hold more, or before they hold less. A disk in pieces gets further pieces, or
 * loses the last ones, whose files nothing names any more.
 */
export function* resizeImage(
  layer: VmdkEditor,
  size: number,
  parentSize: number,
  signal: AbortSignal | undefined,
): Io<void> {
  const { structure, session } = layer
  if (size === structure.size) return
  refuseImpossibleSize(layer, size)
  yield* session.beginContent()
  // Durable is what was written before as well, in whichever file.
  yield* layer.flush()
  if (structure.isMonolithic) yield* resizeOneFile(layer, size, parentSize, signal)
  else if (size > structure.size) yield* growFiles(layer, size, parentSize, signal)
  else yield* shrinkFiles(layer, size, parentSize)
}

/**
 * Empties the disk and gives it another size, in one step: for a disk in one sparse file, whose size stays where the
 * descriptor is another one.
 *
 * @param size bytes; rounded up to sectors, as for a new image
 */
export function* clearImage(layer: VmdkEditor, size: number): Io<void> {
  const { structure, session } = layer
  const [extent, ...others] = structure.extents
  const after = roundUp(size, SECTOR)
  const isOneStep = structure.isMonolithic || (others.length === 0 && after === structure.size)
  if (!isOneStep || !extent || !isWritableExtent(extent) || !extent.clear) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot empty ${layer.name}: it consists of several files, which cannot be changed together in one step`,
      where: { file: layer.name },
      advice: 'Make a new layer instead: vdisk snapshot create PARENT --to FILE',
    })
  }
  yield* session.beginContent()
  yield* extent.clear(after)
  structure.size = after
  yield* session.replaceDescriptor((descriptor) =>
    withLines(descriptor, [lineFor(descriptor.extents[0], after)], after),
  )
}

function* resizeOneFile(
  { structure, session }: VmdkEditor,
  size: number,
  parentSize: number,
  signal: AbortSignal | undefined,
): Io<void> {
  const before = structure.size
  // Who reads meanwhile is not led past the end.
  structure.size = Math.min(before, size)
  try {
    yield* resizable(structure.extents[0]).resize(size, parentSize, signal)
  } catch (error) {
    structure.size = before
    throw error
  }
  structure.size = size
  yield* session.replaceDescriptor((descriptor) => withLines(descriptor, [lineFor(descriptor.extents[0], size)], size))
}

function* growFiles(layer: VmdkEditor, size: number, parentSize: number, signal: AbortSignal | undefined): Io<void> {
  const { structure, session } = layer
  const { descriptor, extents } = structure
  const last = extents.at(-1) as ExtentFile
  const piece = pieceOf(layer)
  const length = Math.min(size - last.start, Math.max(piece, last.length))
  if (length > last.length) yield* resizable(last).resize(length, parentSize, signal)
  const lines = [...descriptor.extents]
  lines[lines.length - 1] = lineFor(lines.at(-1), length)
  const added: WritableExtentFile[] = []
  try {
    for (let start = last.start + length; start < size; start += piece) {
      const line = yield* addFile(layer, lines, Math.min(piece, size - start))
      lines.push(line)
      added.push(yield* openAdded(layer, line, start, parentSize, signal))
    }
  } catch (error) {
    for (const extent of added) yield* extent.close()
    yield* removeFiles(layer, lines.slice(descriptor.extents.length))
    throw error
  }
  try {
    yield* session.replaceDescriptor((before) => withLines(before, lines, size))
  } catch (error) {
    // Nobody knows what the medium has: the new files may be parts of the disk by now.
    for (const extent of added) yield* extent.close()
    throw error
  }
  extents.push(...added)
  structure.size = size
}

function* shrinkFiles(layer: VmdkEditor, size: number, parentSize: number): Io<void> {
  const { structure, session } = layer
  const { extents, descriptor } = structure
  const kept = Math.max(1, extents.filter(({ start }) => start < size).length)
  const last = extents[kept - 1] as ExtentFile
  const lines = descriptor.extents.slice(0, kept)
  lines[kept - 1] = lineFor(lines[kept - 1], size - last.start)
  yield* session.replaceDescriptor((before) => withLines(before, lines, size))
  structure.size = size
  const gone = extents.splice(kept)
  if (size - last.start < last.length) yield* resizable(last).resize(size - last.start, parentSize)
  for (const extent of gone) yield* extent.close()
  const names = new Set(lines.map(({ file }) => descriptor.decode(file ?? '')))
  yield* removeFiles(
    layer,
    descriptor.extents.slice(kept).filter(({ file }) => !names.has(descriptor.decode(file ?? ''))),
  )
}

/** Files that nothing names any more, or not yet; those that are not called after the image are left to their owner. */
function* removeFiles({ structure }: VmdkEditor, lines: readonly ExtentLine[]): Io<void> {
  const { image, descriptor } = structure
  for (const { file } of lines) {
    const name = descriptor.decode(file ?? '')
    if (!name.startsWith(`${stemOf(image.name)}-`) || /[/\\]/.test(name)) continue
    yield* image.removeNeighbour?.(name) ?? just(undefined)
  }
}

/** A further file, as long as a piece is or the disk goes on. @param lines those before */
function* addFile({ structure }: VmdkEditor, lines: readonly ExtentLine[], length: number): Io<ExtentLine> {
  const { image, descriptor, extents } = structure
  const { type, file = '' } = lines.at(-1) as ExtentLine
  const known = /^(.*)-([sf])(\d{3,})\.vmdk$/i.exec(descriptor.decode(file))
  const stem = known?.[1] ?? stemOf(image.name)
  const number = known ? Number(known[3]) + 1 : lines.length + 1
  const nameFor = (chosen: string): string => extentName(chosen, type === 'SPARSE' ? 's' : 'f', number)
  // A file that the disk has lost before may be in the way.
  const made = yield* makeFile(image, stemsFor(stem, true), nameFor)
  const { granularity, details } = extents.at(-1) as ExtentFile
  const shape = { type, grainBytes: granularity, zeroedGrains: details.zeroedGrains === true, preallocation: 'off' }
  yield* fillExtent(image, shape, made.store, length)
  return { access: 'RW', sectors: length / SECTOR, type, file: encodedName(nameFor(made.stem)), offset: 0 }
}

/** Opens a file that was added; what it holds is hidden from the parent. */
function* openAdded(
  { structure }: VmdkEditor,
  line: ExtentLine,
  start: number,
  parentSize: number,
  signal: AbortSignal | undefined,
): Io<WritableExtentFile> {
  const { image, descriptor } = structure
  const length = line.sectors * SECTOR
  const store = yield* image.neighbour(descriptor.decode(line.file as string), 'write')
  const hasParent = descriptor.parentCid !== undefined
  const opening = { image, line, store, isOwnFile: false, start, length, access: 'write', hasParent } as const
  // It was made to be written.
  const extent = (yield* openExtent(opening)) as WritableExtentFile
  if (hasParent && parentSize > start && extent.hide) yield* extent.hide(parentSize, signal)
  return extent
}

/** Bytes of the disk in one piece: what the first of several has, else as much as other programs make them. */
function pieceOf({ structure }: VmdkEditor): number {
  const { extents, descriptor } = structure
  if (extents.length > 1) return (extents[0] as ExtentFile).length
  return descriptor.createType.startsWith('twogb') ? MOST_SPLIT : Number.MAX_SAFE_INTEGER
}

/** @throws VdiskError REFUSED if the disk cannot have `size` bytes */
function refuseImpossibleSize(layer: VmdkEditor, size: number): void {
  const { extents, isMonolithic } = layer.structure
  const last = extents.at(-1) as ExtentFile
  const isSparse = isWritableExtent(last) && last.showParent !== undefined
  if (size % SECTOR !== 0) throw refused(layer.name, size, `its sectors have ${SECTOR} bytes`)
  if (!isWritableExtent(last) || !last.resize) throw refused(layer.name, size, 'its last part is not to be written')
  const piece = pieceOf(layer)
  if (isSparse && Math.min(piece, size - last.start) > MOST_SPARSE) {
    throw refused(layer.name, size, `a sparse file of it would hold more than ${formatSize(MOST_SPARSE)}`)
  }
  const shared = isMonolithic ? undefined : findSharedParts(grown(layer, size), extents)
  if (shared) throw refused(layer.name, size, wordsOf(shared))
  if (extents.length + (size - last.start) / piece > MOST_EXTENTS) {
    throw refused(layer.name, size, `it would consist of more than ${MOST_EXTENTS} files`)
  }
  if (size === 0 && !layer.structure.isMonolithic)
    throw refused(layer.name, size, 'a file without content is no part of a disk')
}

/** The descriptor with the last part as long as it would be; what comes behind that lies in files of its own. */
function grown(layer: VmdkEditor, size: number): Descriptor {
  const { descriptor, extents } = layer.structure
  const last = extents.at(-1) as ExtentFile
  const length = Math.max(last.length, Math.min(size - last.start, pieceOf(layer)))
  return descriptor.withExtents([...descriptor.extents.slice(0, -1), lineFor(descriptor.extents.at(-1), length)])
}

function resizable(extent: ExtentFile | undefined): Required<Pick<WritableExtentFile, 'resize'>> {
  return extent as WritableExtentFile & Required<Pick<WritableExtentFile, 'resize'>>
}

function lineFor(line: ExtentLine | undefined, length: number): ExtentLine {
  return { access: 'RW', type: 'SPARSE', file: undefined, offset: 0, ...line, sectors: length / SECTOR }
}

/** The descriptor with these parts of the disk, and the geometry of it where it has one. */
function withLines(descriptor: Descriptor, lines: readonly ExtentLine[], size: number): Descriptor {
  const resized = descriptor.withExtents(lines)
  if (descriptor.get('ddb.geometry.cylinders') === undefined) return resized
  const heads = descriptor.get('ddb.geometry.heads') === '16' ? 'ide' : 'lsilogic'
  return resized.with({ 'ddb.geometry.cylinders': `${geometryOf(heads, size).cylinders}` })
}

function refused(name: string, size: number, why: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot make ${name} ${size} bytes large: ${why}`,
    where: { file: name },
    advice:
      'Make a copy in another form, and resize that: vdisk convert IMAGE COPY --format vmdk -o subformat=monolithicFlat',
  })
}
