import type { FileStore } from '../io/files.ts'
import { readOnly } from '../io/store.ts'
import type { JournaledFile } from './journaled-file.ts'

/** The same file for somebody who only reads it. */
export function readingOnly(file: JournaledFile): FileStore {
  const refuse = (): never => {
    throw readOnly(file.name)
  }
  return {
    name: file.name,
    writable: false,
    isDevice: false,
    size: () => file.size(),
    read: (at, target) => file.read(at, target),
    segment: (at) => file.segment(at),
    occupied: () => file.occupied(),
    ...(file.stamp ? { stamp: file.stamp } : {}),
    fileId: () => file.fileId(),
    write: refuse,
    truncate: refuse,
    grow: refuse,
    deallocate: refuse,
    flush() {},
    close() {},
  }
}
