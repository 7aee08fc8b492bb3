import type { FormatDriver } from '../contracts/driver.ts'
import type { Identity, ParentLink } from '../contracts/identity.ts'
import type { Image } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'
import type { Gate } from './gate.ts'
import { fitOf } from './linkage.ts'
import { sampleOf } from './probe.ts'

/** What a look at the files that might be the parent has found; names as the gate takes them. */
interface Found {
  /** what the child expects */
  readonly exact: string[]
  /** the same disk in another state: the link is judged, and found wrong, when it is opened */
  readonly near: string[]
  /** another program writes to these, so nobody can look */
  readonly busy: string[]
}

/**
 * Finds the parent of a child whose format has no place for a name: the file, of those that may be opened at all, which
 * says that it is the expected one. Copies cannot be told apart, and none of them is guessed.
 *
 * @returns undefined: there is none
 * @throws VdiskError REFUSED if there are several, IN_USE if it may be one that is being written
 */
export function* findByIdentity(
  layer: Layer,
  image: Image,
  { gate, drivers }: { gate: Gate; drivers: readonly FormatDriver[] },
): Io<Image | undefined> {
  const link = layer.parent as ParentLink
  const driver = drivers.find(({ name }) => name === link.format)
  if (!driver || !gate.nearby || link.expects.length === 0) return undefined
  const found: Found = { exact: [], near: [], busy: [] }
  const seen = new Set<string | undefined>()
  for (const name of gate.nearby(image))
    yield* lookAt(name, { image, gate, driver, expects: link.expects }, found, seen)
  const [first, ...others] = found.exact.length > 0 ? found.exact : found.near
  if (others.length > 0) throw ambiguous(layer, [first as string, ...others])
  if (first !== undefined) return yield* gate.admit(first, image, 'parent', 'read')
  if (found.busy.length > 0) throw busy(layer, found.busy)
  return undefined
}

interface Search {
  readonly image: Image
  readonly gate: Gate
  readonly driver: FormatDriver
  readonly expects: readonly Identity[]
}

/** @param seen files that were looked at, under whatever name */
function* lookAt(name: string, search: Search, found: Found, seen: Set<string | undefined>): Io<void> {
  const { image, gate, driver, expects } = search
  let candidate: Image
  try {
    candidate = yield* gate.admit(name, image, 'parent', 'read')
  } catch (error) {
    // What may not be opened, or is the child itself, is not the parent.
    if (isVdiskError(error, 'IN_USE')) found.busy.push(name)
    else if (!isVdiskError(error) || isVdiskError(error, 'CANCELLED')) throw error
    return
  }
  const id = candidate.store.fileId?.()
  try {
    if (id !== undefined && seen.has(id)) return
    seen.add(id)
    const fit = fitOf(expects, yield* identityOf(candidate, driver))
    if (fit === 'exact') found.exact.push(name)
    if (fit === 'near') found.near.push(name)
  } finally {
    yield* settle(candidate.store.close())
  }
}

/** Who a file says it is; undefined for one that is not of the format, or cannot be read. */
function* identityOf(candidate: Image, driver: FormatDriver): Io<Identity | undefined> {
  try {
    if (driver.probe(yield* sampleOf(candidate)) !== 'yes') return undefined
    return (yield* driver.open(candidate, 'inspect')).identity
  } catch (error) {
    if (!isVdiskError(error) || isVdiskError(error, 'CANCELLED')) throw error
    return undefined
  }
}

function ambiguous(layer: Layer, names: readonly string[]): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot tell which file is the parent of ${layer.name}: ${names.join(' and ')} both say so`,
    where: { file: layer.name, structure: 'parent reference' },
    advice: 'Move the copy away, or say which one it is: vdisk relink IMAGE --parent FILE',
  })
}

function busy(layer: Layer, names: readonly string[]): VdiskError {
  return new VdiskError('IN_USE', {
    message: `Cannot find the parent of ${layer.name}: it may be ${names.join(' or ')}, which another program writes to`,
    where: { file: layer.name, structure: 'parent reference' },
    advice: 'Close that program, or say which file is the parent: vdisk relink IMAGE --parent FILE',
  })
}
