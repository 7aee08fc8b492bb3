import { createHash } from 'node:crypto'
import type { Json } from '../contracts/layer.ts'
import { isObject, type Parsed, parseJson } from '../contracts/link-document.ts'
import { VdiskError } from '../errors.ts'
import { GRANULE } from './granules.ts'

/** Formats whose images can stand over each other and know it for certain. */
export const FORMATS = ['qcow2', 'vhdx'] as const
export type BackupFormat = (typeof FORMATS)[number]

/** A file that holds what differs from the one before it; the first holds everything. */
export interface BackupLayer {
  /** relative to the folder of the catalogue */
  readonly file: string
  readonly digests: string
  /** bytes of the disk that it shows */
  readonly size: number
  /** of the digests: `DigestTable.sum` */
  readonly sum: string
}

/** A state of the disk that can be restored. */
export interface Backup {
  /** rises from 1 on, and is never used again */
  readonly number: number
  /** file of the layer whose top shows it */
  readonly layer: string
  /** milliseconds since 1970: the moment of which it is */
  readonly at: number
  /** bytes of the disk */
  readonly size: number
  /** of the tracked disk, for this moment; undefined: it was not tracked */
  readonly token: string | undefined
  /** bytes of the disk that were read for it, and those that differed */
  readonly read: number
  readonly written: number
  /** why all of the disk was read; undefined: only what had changed */
  readonly full: string | undefined
  /** it was read back */
  readonly verified: boolean
}

/** What a folder of backups holds. [docs/backups.md] */
export interface Catalogue {
  /** the image that was backed up last */
  readonly source: string
  readonly format: BackupFormat
  /** lowest first */
  readonly layers: readonly BackupLayer[]
  /** oldest first; each has a layer, but a layer that is about to be merged has none */
  readonly backups: readonly Backup[]
}

/** Whether the lowest layer has no backup of its own: the next is being merged into it, or is and the catalogue does not know. */
export function isMerging({ layers, backups }: Catalogue): boolean {
  return !backups.some(({ layer }) => layer === layers[0]?.file)
}

const FORMAT = 'vdisk-backups'
const VERSION = 1

export function encodeCatalogue(catalogue: Catalogue): Uint8Array {
  const { source, format, layers, backups } = catalogue
  const content = {
    source,
    format,
    granule: GRANULE,
    layers: layers.map(({ file, digests, size, sum }) => ({ file, digests, size, sum })),
    backups: backups.map(({ token, full, ...backup }) => ({ ...backup, token: token ?? null, full: full ?? null })),
  }
  const document = { format: FORMAT, version: VERSION, sha256: sumOf(content), content }
  return new TextEncoder().encode(`${JSON.stringify(document, undefined, 2)}\n`)
}

/** @throws VdiskError CORRUPT, UNSUPPORTED for one of a later version */
export function decodeCatalogue(bytes: Uint8Array, name: string): Catalogue {
  const document = parseJson(new TextDecoder().decode(bytes))
  if (!isObject(document) || document.format !== FORMAT) throw corrupt(name, 'it is no catalogue of backups')
  if (document.version !== VERSION) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot read ${name}: it is of version ${JSON.stringify(document.version)}, and this vdisk knows ${VERSION}`,
      where: { file: name },
      advice: 'Use the vdisk that wrote it, or a later one.',
    })
  }
  const { content } = document
  if (!isObject(content) || document.sha256 !== sumOf(content)) throw corrupt(name, 'its checksum does not match')
  const { source, format, granule, layers, backups } = content
  const known = FORMATS.find((one) => one === format)
  if (typeof source !== 'string' || !known || granule !== GRANULE) throw corrupt(name, 'it is not complete')
  const found = {
    source,
    format: known,
    layers: listOf(layers, name).map((layer) => decodeLayer(layer, name)),
    backups: listOf(backups, name).map((backup) => decodeBackup(backup, name)),
  }
  for (const { number, layer } of found.backups) {
    if (!found.layers.some(({ file }) => file === layer)) throw corrupt(name, `backup ${number} has no layer`)
  }
  return found
}

function sumOf(content: Json): string {
  return createHash('sha256').update(JSON.stringify(content)).digest('hex')
}

function listOf(value: Parsed, name: string): readonly Json[] {
  if (Array.isArray(value)) return value
  throw corrupt(name, 'a list is missing')
}

function decodeLayer(value: Json, name: string): BackupLayer {
  if (isObject(value)) {
    const { file, digests, size, sum } = value
    const texts = [file, digests, sum].every((text) => typeof text === 'string')
    if (texts && isCount(size)) return { file, digests, size, sum } as BackupLayer
  }
  throw corrupt(name, 'a layer is not described')
}

function decodeBackup(value: Json, name: string): Backup {
  if (isObject(value)) {
    const { number, layer, at, size, read, written, token, full, verified } = value
    const counts = [number, at, size, read, written].every(isCount)
    if (counts && typeof layer === 'string' && typeof verified === 'boolean') {
      const known = { number, layer, at, size, read, written, verified } as Backup
      return { ...known, token: textOf(token), full: textOf(full) }
    }
  }
  throw corrupt(name, 'a backup is not described')
}

function isCount(value: Parsed): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function textOf(value: Parsed): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function corrupt(name: string, why: string): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot read ${name}: ${why}`,
    where: { file: name },
    advice:
      'The layers beside it are ordinary images: the newest opens with all it is built upon. Begin new backups in another folder.',
  })
}
