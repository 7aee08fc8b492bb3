import { createHash } from 'node:crypto'
import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { stampOf } from '../chain/linkage.ts'
import { driverNamed } from '../chain/probe.ts'
import type { Identity } from '../contracts/identity.ts'
import { isWritable, type Layer } from '../contracts/layer.ts'
import { isVdiskError } from '../errors.ts'
import { drivers } from '../formats/registry.ts'
import type { FileStore, Files } from '../io/files.ts'
import { hostFiles } from '../io/host-files.ts'
import type { Io } from '../io/io.ts'
import type { FileStamp } from '../io/store.ts'
import type { Subject } from '../tracking/binding.ts'
import { ChangeMap, type ChangeMapOptions } from '../tracking/change-map.ts'
import { imageFileOf } from './image-file.ts'

/** How an image was opened, as far as its sidecar is concerned. */
export interface SidecarOptions {
  readonly files?: Files | undefined
  readonly locking?: boolean | undefined
  readonly durable?: boolean | undefined
}

/** The sidecar of an image. [docs/tracking-sidecar.md] */
export function sidecarOf(file: string, files: Files): string {
  return `${files.realPath(imageFileOf(file, files))}.vdisk-track`
}

/**
 * Lets the sidecar of an image, if there is one, hear of everything that is written to the disk.
 *
 * @param before the image's file as it was before anything of it was opened for writing
 */
export function* attendTracking(
  chain: Chain,
  file: string,
  before: FileStamp | undefined,
  options: SidecarOptions,
): Io<void> {
  const files = options.files ?? hostFiles
  const sidecar = sidecarOf(file, files)
  if (!chain.writable || !files.look(sidecar)) return
  const store = openSidecar(files, sidecar, 'write', options)
  try {
    const how = { ...howFor(chain, files, sidecar), store }
    yield* chain.attend(() => ChangeMap.open(subjectOf(chain, before), how))
  } catch (error) {
    store.close()
    // What cannot be read tells nobody anything, so nothing wrong either.
    if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'UNSUPPORTED')) throw error
    chain.note(`what is written is not recorded: ${error.message}. ${error.advice}`)
  }
}

export function openSidecar(
  files: Files,
  sidecar: string,
  access: 'read' | 'write',
  options: SidecarOptions,
): FileStore {
  const lock = options.locking === false ? {} : { lock: access }
  return files.open(sidecar, { write: access === 'write', noFollow: true, durable: options.durable ?? true, ...lock })
}

/** The sidecar of an image of this machine. */
export function sidecarOfImage(file: string): string {
  return sidecarOf(file, hostFiles)
}

/** What a change map wants to know of its disk. */
export function howFor(chain: Chain, files: Files, sidecar: string): Omit<ChangeMapOptions, 'store'> {
  const top = chain.layers.at(-1) as Layer
  const parents = wordsOfParents(chain)
  return {
    sizeOf: () => chain.size,
    stampOf: () => stampOf(top),
    contentOf: () => contentOf(parents, top, top.identity),
    remove: () => {
      files.remove(sidecar, { missing: 'allow' })
      files.flushFolder(path.dirname(sidecar))
    },
  }
}

/** The disk as a sidecar must find it again. @param before the stamp of its file before it was opened, if it was for writing */
export function subjectOf(chain: Chain, before: FileStamp | undefined): Subject {
  const top = chain.layers.at(-1) as Layer
  const several = (top.neighbours ?? []).length > 0
  const next = isWritable(top) ? top.nextIdentity : top.identity
  const parents = wordsOfParents(chain)
  return {
    size: chain.size,
    stamp: before && !several ? before : stampOf(top),
    content: contentOf(parents, top, top.identity),
    next: contentOf(parents, top, next),
    noticesWriters: !several && noticesWriters(top),
  }
}

/** Who the content below the top layer is. Nobody may write to a parent while its child is open, so it stays. */
function wordsOfParents({ layers }: Chain): readonly string[] {
  return layers.slice(0, -1).map((layer) => `${layer.format} ${wordOf(layer.identity)} ${stampWord(layer)}\n`)
}

/** Who the content of a disk is: all layers. All zero for a single one that has no identity. */
function contentOf(parents: readonly string[], top: Layer, identity: Identity | undefined): Uint8Array {
  if (!identity?.current && parents.length === 0) return new Uint8Array(32)
  return createHash('sha256')
    .update([...parents, `${top.format} ${wordOf(identity)}\n`].join(''))
    .digest()
}

function wordOf(identity: Identity | undefined): string {
  return identity ? `${identity.kind} ${identity.value} ${identity.current}` : 'none'
}

/** Of a parent whose format does not tell whether it was written to, its file must be as it was. */
function stampWord(layer: Layer): string {
  if (noticesWriters(layer)) return ''
  const { size, modified, changed } = stampOf(layer) ?? {}
  return `${size} ${modified} ${changed}`
}

/** Whether the identity of a layer tells of everybody who wrote to it. */
function noticesWriters({ format, identity, name }: Layer): boolean {
  return identity?.current === true && driverNamed(format, drivers, name).noticesWriters === true
}
