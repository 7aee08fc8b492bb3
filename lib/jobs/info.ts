import type { Identity } from '../contracts/identity.ts'
import type { BitmapInfo, Json, Layer, SnapshotInfo } from '../contracts/layer.ts'
import { isHeldForWriting } from '../io/holders.ts'
import { promised, settle } from '../io/io.ts'
import { type OpenOptions, openAlone, openImage } from './images.ts'

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
  readonly granularity: number
  readonly identity: Identity | undefined
  readonly parent: ParentInfo | undefined
  readonly snapshots: readonly SnapshotInfo[]
  readonly bitmaps: readonly BitmapInfo[]
  /** the file that took this one's content over, and when (seconds since 1970) */
  readonly merged: { readonly into: string; readonly at: number } | undefined
  /** whether another program has it open for writing; undefined where that cannot be told */
  readonly inUse: boolean | undefined
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

/** A layer of an open chain, with the verdict on its link to the layer below. */
export interface ChainLayerInfo extends LayerInfo {
  readonly depth: number
  readonly link:
    | {
        readonly level: string
        readonly reason: string | undefined
        readonly message: string
        readonly expected: string | undefined
        readonly found: string | undefined
      }
    | undefined
}

/** What a file says of itself. Nothing but the file itself is opened, and of that only metadata. */
export async function inspectImage(file: string, options: OpenOptions = {}): Promise<LayerInfo> {
  const layer = await promised(openAlone(file, 'inspect', options))
  try {
    return await describeLayer(layer)
  } finally {
    await promised(layer.close())
  }
}

/** All layers of a chain, base first. Links that do not match are told, not thrown. */
export async function inspectChain(file: string, options: OpenOptions = {}): Promise<ChainLayerInfo[]> {
  const chain = await promised(openImage(file, { ...options, verify: 'warn', locking: false, writable: false }))
  try {
    const infos: ChainLayerInfo[] = []
    for (const [depth, layer] of chain.layers.entries()) {
      infos.push({ ...(await describeLayer(layer)), depth, link: chain.links[depth] })
    }
    return infos
  } finally {
    await promised(chain.close())
  }
}

async function describeLayer(layer: Layer): Promise<LayerInfo> {
  const id = layer.store.fileId?.()
  return {
    name: layer.name,
    format: layer.format,
    size: layer.size,
    occupied: layer.store.occupied && (await promised(settle(layer.store.occupied()))),
    fileSize: await promised(settle(layer.store.size())),
    granularity: layer.granularity,
    identity: layer.identity,
    parent: layer.parent && {
      references: layer.parent.references,
      format: layer.parent.format,
      expects: layer.parent.expects.map(({ value }) => value),
      replaced: layer.parent.replaced?.value,
      merging: layer.parent.merging,
    },
    snapshots: layer.snapshots?.list() ?? [],
    bitmaps: layer.bitmaps?.list() ?? [],
    merged: layer.merged,
    inUse: id === undefined ? undefined : isHeldForWriting(id),
    details: layer.details,
  }
}
