import type { Chain } from '../chain/chain.ts'
import type { Verdict } from '../chain/linkage.ts'
import { type RecordBeside, recordBeside } from '../chain/recorded-layer.ts'
import type { Identity } from '../contracts/identity.ts'
import type { BitmapInfo, Json, Layer, SnapshotInfo } from '../contracts/layer.ts'
import { reasonOf, type VdiskError } from '../errors.ts'
import { HeldFiles } from '../io/holders.ts'
import { promised, settle } from '../io/io.ts'
import { type OpenOptions, openAlone, openKnown } from './images.ts'

/** What one image file says of itself. */
export interface LayerInfo {
  readonly name: string
  readonly format: string
  /** bytes that the guest sees */
  readonly size: number
  /** bytes that the file takes on its medium */
  readonly occupied: number | undefined
  /** bytes of the file */
  readonly fileSize: number
  /** the container that the image is in, and which of its members it is */
  readonly wrapping: { readonly container: string; readonly member: string | undefined } | undefined
  readonly granularity: number
  readonly identity: Identity | undefined
  readonly parent: ParentInfo | undefined
  /** the linkage record that lies beside the file, and whether it holds */
  readonly linkRecord: RecordBeside | undefined
  readonly snapshots: readonly SnapshotInfo[]
  readonly bitmaps: readonly BitmapInfo[]
  /** the file that took this one's content over, and when (seconds since 1970) */
  readonly merged: { readonly into: string; readonly at: number } | undefined
  /** whether another program has it open for writing; undefined where that cannot be told */
  readonly inUse: boolean | undefined
  /** what salvage left out */
  readonly leftOut: readonly Pick<VdiskError, 'code' | 'message' | 'where'>[]
  readonly details: { readonly [key: string]: Json }
}

export interface ParentInfo {
  readonly references: readonly string[]
  readonly format: string | undefined
  readonly expects: readonly string[]
  /** what was expected before a user accepted another parent */
  readonly replaced: string | undefined
  readonly merging: boolean
}

/** A layer of a chain, with the verdict on its link to the layer below. */
export interface ChainLayerInfo extends LayerInfo {
  readonly depth: number
  readonly link: Verdict | undefined
  /** why there is nothing below this layer, although it has a parent */
  readonly broken: Pick<VdiskError, 'code' | 'message' | 'advice'> | undefined
}

/** What a file says of itself. Nothing but the file itself is opened, and of that only metadata. */
export async function inspectImage(file: string, options: OpenOptions = {}): Promise<LayerInfo> {
  const leftOut: VdiskError[] = []
  const held = HeldFiles.read()
  const layer = await promised(openAlone(file, 'inspect', { ...options, leaveOut: (damage) => leftOut.push(damage) }))
  try {
    return { ...(await describeLayer(layer, await held)), leftOut: leftOut.map(told) }
  } finally {
    await promised(layer.close())
  }
}

/**
 * All layers of a chain, base first; of a broken one, those that could be opened. Links that do not match and parents
 * that are missing are told, not thrown.
 */
export async function inspectChain(file: string, options: OpenOptions = {}): Promise<ChainLayerInfo[]> {
  const leftOut: VdiskError[] = []
  const held = HeldFiles.read()
  const { layers, links, broken } = await promised(
    openKnown(file, { ...options, locking: false, leaveOut: (damage) => leftOut.push(damage) }),
  )
  try {
    const infos: ChainLayerInfo[] = []
    for (const [depth, layer] of layers.entries()) {
      const why =
        depth === 0 && broken ? { code: broken.code, message: broken.message, advice: broken.advice } : undefined
      const without = leftOut.filter(({ where }) => where.file === layer.name).map(told)
      infos.push({
        ...(await describeLayer(layer, await held)),
        leftOut: without,
        depth,
        link: links[depth],
        broken: why,
      })
    }
    return infos
  } finally {
    for (const layer of layers) await promised(layer.close())
  }
}

/**
 * All layers of an open chain, base first, as they are in memory: what is written and not yet flushed counts. If somebody
 * has one open for writing it is whoever asks, so nothing of this may change behind his back.
 */
export async function describeChain({ layers, links }: Chain): Promise<ChainLayerInfo[]> {
  const infos: ChainLayerInfo[] = []
  for (const [depth, layer] of layers.entries()) {
    infos.push({ ...(await describeLayer(layer)), inUse: false, depth, link: links[depth], broken: undefined })
  }
  return infos
}

function told(damage: VdiskError): LayerInfo['leftOut'][number] {
  return { code: damage.code, message: reasonOf(damage), where: damage.where }
}

async function describeLayer(layer: Layer, held?: HeldFiles): Promise<LayerInfo> {
  const id = layer.store.fileId?.()
  const { wrapping } = layer.store
  return {
    name: layer.name,
    format: layer.format,
    size: layer.size,
    occupied: layer.store.occupied && (await promised(settle(layer.store.occupied()))),
    fileSize: wrapping?.fileSize ?? (await promised(settle(layer.store.size()))),
    wrapping: wrapping && { container: wrapping.container, member: wrapping.member },
    granularity: layer.granularity,
    identity: layer.identity,
    parent: layer.parent && {
      references: layer.parent.references,
      format: layer.parent.format,
      expects: layer.parent.expects.map(({ value }) => value),
      replaced: layer.parent.replaced?.value,
      merging: layer.parent.merging,
    },
    linkRecord: recordBeside(layer),
    snapshots: layer.snapshots?.list() ?? [],
    bitmaps: layer.bitmaps?.list() ?? [],
    merged: layer.merged,
    leftOut: [],
    inUse: id === undefined ? undefined : held?.has(id),
    details: layer.details,
  }
}
