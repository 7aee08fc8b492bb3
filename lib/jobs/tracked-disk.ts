import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { stampOf } from '../chain/linkage.ts'
import { isWritable, type Layer, type Restart } from '../contracts/layer.ts'
import { isVdiskError } from '../errors.ts'
import type { FileStore, Files } from '../io/files.ts'
import { hostFiles } from '../io/host-files.ts'
import type { Io } from '../io/io.ts'
import type { FileStamp } from '../io/store.ts'
import type { Subject } from '../tracking/binding.ts'
import { ChangeMap, type ChangeMapOptions } from '../tracking/change-map.ts'
import { contentOf, noticesWriters, wordsOfParents } from './disk-content.ts'
import { guardAt, overtakenOf, restartGuard } from './guard.ts'
import { imageFileOf } from './image-file.ts'

/** How an image was opened, as far as its sidecar is concerned. */
export interface SidecarOptions {
  readonly files?: Files | undefined
  readonly locking?: boolean | undefined
  readonly durable?: boolean | undefined
}

/** What of a chain says who its disk is. */
export type DiskLayers = Pick<Chain, 'layers' | 'size'>

const ENDING = '.vdisk-track'

/** The sidecar of an image. [docs/tracking-sidecar.md] */
export function sidecarOf(file: string, files: Files): string {
  return `${files.realPath(imageFileOf(file, files))}${ENDING}`
}

export function isSidecar(file: string): boolean {
  return file.endsWith(ENDING)
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
    yield* chain.attend(() => openMap(chain, before, { ...howFor(chain, files, sidecar), store }))
  } catch (error) {
    store.close()
    // What cannot be read tells nobody anything, so nothing wrong either.
    if (!isVdiskError(error, 'CORRUPT') && !isVdiskError(error, 'UNSUPPORTED')) throw error
    chain.note(`what is written is not recorded: ${error.message}. ${error.advice}`)
  }
}

/** Opens the sidecar of a disk that is open for writing; what is in its guard by now is taken over. */
export function* openMap(chain: Chain, before: FileStamp | undefined, options: ChangeMapOptions): Io<ChangeMap> {
  const parents = wordsOfParents(chain)
  let restart: Restart | undefined
  const map: ChangeMap = yield* ChangeMap.open(subjectOf(chain, before), {
    ...options,
    guardOf: () => (restart?.done && map.facts.guard ? guardAt(chain, parents, map.facts.guard) : undefined),
  })
  const { guard } = map.facts
  if (guard) restart = restartGuard(chain, guard)
  return map
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
export function howFor(chain: DiskLayers, files: Files, sidecar: string): Omit<ChangeMapOptions, 'store'> {
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
export function subjectOf(chain: DiskLayers, before: FileStamp | undefined): Subject {
  const top = chain.layers.at(-1) as Layer
  const several = (top.neighbours ?? []).length > 0
  const now = stampOf(top)
  // What is known of the image's own file says nothing where the stamp is that of others, as in a bundle.
  const isThat = before !== undefined && !several && before.inode === now?.inode
  const next = isWritable(top) ? top.nextIdentity : top.identity
  const parents = wordsOfParents(chain)
  return {
    size: chain.size,
    stamp: isThat ? before : now,
    content: contentOf(parents, top, top.identity),
    next: contentOf(parents, top, next),
    noticesWriters: !several && noticesWriters(top),
    overtaken: several ? undefined : overtakenOf(top, parents),
  }
}
