import { memoryPool } from '../bytes/pool.ts'
import type { Container } from '../contracts/container.ts'
import type { Access, FormatDriver } from '../contracts/driver.ts'
import type { ParentLink } from '../contracts/identity.ts'
import type { Image, Sample } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import { isVdiskError, messageOf, reasonOf, VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'
import { Chain } from './chain.ts'
import { sampleContent } from './content-sample.ts'
import type { Gate } from './gate.ts'
import type { LayerPool } from './layer-pool.ts'
import { adviceOnMismatch, identitiesOf, judgeLink, type Verdict } from './linkage.ts'
import { chooseDriver, SAMPLE_HEAD, sampleOf } from './probe.ts'
import { withLinkRecord } from './recorded-layer.ts'
import { findByIdentity } from './search.ts'
import { unwrapped } from './wrapped.ts'

export const DEFAULT_DEPTH = 64

/** Memory for the samples of files that are opened one after the other. */
const SCRATCH = memoryPool(SAMPLE_HEAD, 1)

export interface OpenChainOptions {
  readonly drivers: readonly FormatDriver[]
  /** what images may be packed in; default: nothing */
  readonly containers?: readonly Container[] | undefined
  readonly gate: Gate
  /** write: the top layer is opened for writing, its parents never are */
  readonly access: 'read' | 'write'
  /** strict: a link that does not match is an error. warn: it becomes a note, and the disk is read-only. */
  readonly verify: 'strict' | 'warn'
  /** the format of the top image, where it must not be probed */
  readonly format?: string | undefined
  /** the format of parents whose child does not name it */
  readonly parentFormat?: string | undefined
  /** layers at most, default 64 */
  readonly maxDepth?: number | undefined
  /** shares the layers for reading with other chains */
  readonly pool?: LayerPool | undefined
  /** what salvage left out; it fills while the layers are opened, and becomes notes */
  readonly leftOut?: readonly VdiskError[] | undefined
}

/**
 * Opens an image and all its parents down to the base, and judges every link.
 *
 * On failure everything opened so far is let go again. The image's store belongs to the chain from here on.
 *
 * @throws VdiskError PARENT_MISSING, PARENT_MISMATCH, CHAIN_CYCLE, LIMIT_EXCEEDED, REFUSED, and what drivers throw
 */
export function* openChain(image: Image, options: OpenChainOptions): Io<Chain> {
  const { pool, access } = options
  const layers: Layer[] = []
  if (access === 'write') pool?.noteWriter(image)
  try {
    yield* openLayers(image, options, layers)
    const links = yield* judgeLinks(layers, true)
    const notes = [...(options.leftOut ?? []).map(noteOnDamage), ...collectNotes(layers, links, options)]
    return new Chain(layers, { links, notes, pool })
  } catch (error) {
    for (const layer of layers) yield* quietly(pool ? pool.release(layer, image.name) : layer.close())
    pool?.forgetWriter(image.store)
    throw error
  }
}

/** The layers of a chain as far down as they can be opened. */
export interface KnownLayers {
  /** lowest first; with `broken`, the lowest has a parent that could not be opened */
  readonly layers: readonly Layer[]
  readonly links: readonly (Verdict | undefined)[]
  readonly broken: VdiskError | undefined
}

/**
 * Opens a chain that may be broken, to tell what is left of it. The caller closes the layers; none of them is shared.
 *
 * @throws VdiskError if not even the image itself can be opened
 */
export function* openKnownLayers(image: Image, options: OpenChainOptions): Io<KnownLayers> {
  const layers: Layer[] = []
  let broken: VdiskError | undefined
  try {
    yield* openLayers(image, { ...options, pool: undefined }, layers)
  } catch (error) {
    if (layers.length === 0 || !isVdiskError(error) || isVdiskError(error, 'CANCELLED')) {
      for (const layer of layers) yield* quietly(layer.close())
      throw error
    }
    broken = error
  }
  try {
    return { layers, links: yield* judgeLinks(layers, broken === undefined), broken }
  } catch (error) {
    for (const layer of layers) yield* quietly(layer.close())
    throw error
  }
}

interface HowToOpen {
  readonly drivers: readonly FormatDriver[]
  readonly containers?: readonly Container[] | undefined
  readonly format?: string | undefined
  readonly access: Access
}

/**
 * Opens one file as a layer, without its parents.
 *
 * @param options.pool for a layer that is read: shares it, on behalf of the disk `user`
 */
export function* openLayer(
  image: Image,
  options: HowToOpen & { pool?: { readonly layers: LayerPool; readonly user: string } | undefined },
): Io<Layer> {
  const { access, pool } = options
  try {
    const { inside, driver } = yield* recognized(image, options)
    const open = function* (own: Image): Io<Layer> {
      const layer = yield* driver.open(own, access)
      try {
        return yield* withLinkRecord(layer, own)
      } catch (error) {
        // Only the layer knows all of its files.
        yield* quietly(layer.close())
        throw error
      }
    }
    if (!pool || access !== 'read') return yield* open(inside)
    return yield* pool.layers.take(inside, driver.name, pool.user, open)
  } catch (error) {
    yield* settle(image.store.close())
    throw error
  }
}

/** The image inside what is around it, and the driver of its format. Probes keep nothing of the sample they look at. */
function* recognized(image: Image, options: HowToOpen): Io<{ inside: Image; driver: FormatDriver }> {
  const { format, access, drivers } = options
  let sample: Sample | undefined
  let memory: Uint8Array | undefined
  const sampling = function* (): Io<Sample> {
    memory ??= SCRATCH.take()
    sample ??= yield* sampleOf(image, memory)
    return sample
  }
  try {
    const inside = yield* unwrapped(image, { ...options, sampling })
    const forWriting = access === 'write'
    const again = inside === image ? sampling : undefined
    return { inside, driver: yield* chooseDriver(inside, drivers, { format, forWriting, sampling: again }) }
  } finally {
    if (memory) SCRATCH.giveBack(memory)
  }
}

/** Fills `layers` base first. */
function* openLayers(top: Image, options: OpenChainOptions, layers: Layer[]): Io<void> {
  const { drivers, containers, maxDepth = DEFAULT_DEPTH } = options
  const pool = options.pool && { layers: options.pool, user: top.name }
  const seen = new Map<string, string>()
  let image = top
  let format = options.format
  for (;;) {
    const id = image.store.fileId?.()
    if (id !== undefined && seen.has(id)) {
      yield* settle(image.store.close())
      throw new VdiskError('CHAIN_CYCLE', {
        message: `Cannot open ${top.name}: its chain of parents comes back to ${image.name}`,
        where: { file: (layers[0] as Layer).name },
        advice: 'Point the layer that is wrong at its real parent with vdisk relink.',
      })
    }
    if (id !== undefined) seen.set(id, image.name)
    const access = layers.length === 0 ? options.access : 'read'
    const layer = yield* openLayer(image, { drivers, containers, format, access, pool })
    layers.unshift(layer)
    if (!layer.parent) return
    if (layers.length >= maxDepth) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot open ${top.name}: its chain has more than ${maxDepth} layers`,
        where: { file: layer.name },
        advice: 'Merge some of its layers, or allow more with --max-depth.',
      })
    }
    format = parentFormat(layer, layer.parent, options)
    image = yield* findParent(layer, layer.parent, image, options)
  }
}

function parentFormat(layer: Layer, link: ParentLink, options: OpenChainOptions): string {
  const format = link.format ?? options.parentFormat
  if (format !== undefined) return format
  // The content of a raw parent belongs to its guest. Guessing would let the guest choose which files the host opens.
  throw new VdiskError('REFUSED', {
    message: `Cannot open the parent of ${layer.name}: the image does not say which format "${link.references[0]}" has`,
    where: { file: layer.name, structure: 'parent reference' },
    advice:
      'Say it with --parent-format, or record it for good: vdisk relink IMAGE --parent FILE --parent-format FORMAT.',
  })
}

function* findParent(layer: Layer, link: ParentLink, image: Image, options: OpenChainOptions): Io<Image> {
  const { gate } = options
  let failure: unknown
  for (const reference of link.references) {
    try {
      return yield* gate.admit(reference, image, 'parent', 'read')
    } catch (error) {
      // A stale path is no reason to give up while another may be right; the first complaint is the one to tell.
      if (!isVdiskError(error, 'NOT_FOUND') && !isVdiskError(error, 'REFUSED')) throw error
      if (failure === undefined || isVdiskError(failure, 'NOT_FOUND')) failure = error
    }
  }
  if (isVdiskError(failure, 'REFUSED')) throw failure
  const found = link.references.length === 0 ? yield* findByIdentity(layer, image, options) : undefined
  if (found) return found
  throw new VdiskError('PARENT_MISSING', {
    message: `Cannot open ${layer.name}: its parent "${link.references[0] ?? '(not named)'}" is missing`,
    where: { file: layer.name, structure: 'parent reference' },
    advice: isVdiskError(failure) ? failure.advice : adviceOnNameless(layer),
    cause: failure,
  })
}

function adviceOnNameless(layer: Layer): string {
  const relink = 'point the image at its parent: vdisk relink IMAGE --parent FILE'
  return `If it was moved, bring its linkage record along, ${layer.name}.vdisk-link. Or ${relink}`
}

/** @param whole false: the lowest layer lacks its parent, so no disk can be read */
function* judgeLinks(layers: readonly Layer[], whole: boolean): Io<(Verdict | undefined)[]> {
  const links: (Verdict | undefined)[] = [undefined]
  for (let depth = 1; depth < layers.length; depth++) {
    const below = new Chain(layers.slice(0, depth), { readOnly: true })
    // What is merged changes the disk below: a sample of that says nothing of the parent's file.
    const changing = links.some((link) => link?.reason === 'MERGE_UNDER_WAY')
    const sample = whole && !changing ? () => sampleContent(below) : undefined
    links.push(yield* judgeLink(layers[depth] as Layer, layers[depth - 1] as Layer, sample))
  }
  return links
}

function collectNotes(
  layers: readonly Layer[],
  links: readonly (Verdict | undefined)[],
  options: OpenChainOptions,
): string[] {
  const notes: string[] = []
  for (const [depth, layer] of layers.entries()) {
    const isTop = depth === layers.length - 1
    if (layer.merged) {
      const what = `${layer.name} was merged into ${layer.merged.into} on ${dayOf(layer.merged.at)}`
      if (isTop && options.access === 'write') {
        throw new VdiskError('REFUSED', {
          message: `Cannot write ${what}`,
          where: { file: layer.name },
          advice: `Use ${layer.merged.into}; this file is only kept until you are sure you do not need it.`,
        })
      }
      notes.push(`${what}: this file is history, and will not follow what is written there.`)
    }
    const verdict = links[depth]
    if (verdict?.level !== 'mismatch' && verdict?.reason !== 'PARENT_TIMESTAMP_MISMATCH') continue
    const parent = layers[depth - 1] as Layer
    const what = `${parent.name} as parent of ${layer.name}: ${verdict.message}`
    if (verdict.level !== 'mismatch') {
      notes.push(`${what}.`)
      continue
    }
    if (options.verify === 'strict' || options.access === 'write') {
      throw new VdiskError('PARENT_MISMATCH', {
        message: `Cannot use ${what}${identitiesOf(verdict)}`,
        where: { file: layer.name, structure: 'parent link' },
        advice: adviceOnMismatch(layer),
      })
    }
    notes.push(`${what}${identitiesOf(verdict)}. What is read here may be a mix of two states.`)
  }
  return notes
}

function noteOnDamage(damage: VdiskError): string {
  return `Of ${damage.where.file ?? 'the image'} something is left out: ${reasonOf(damage)}.`
}

function dayOf(seconds: number): string {
  return new Date(seconds * 1000).toISOString().slice(0, 10)
}

function* quietly(closing: Io<void>): Io<void> {
  try {
    yield* closing
  } catch (error) {
    // The error that made us close is the one to tell; this one would hide it.
    void messageOf(error)
  }
}
