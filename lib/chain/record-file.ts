import path from 'node:path'
import type { SideFile } from '../contracts/image.ts'
import { VdiskError } from '../errors.ts'
import type { Files, OpenFileOptions } from '../io/files.ts'
import { type Io, settle } from '../io/io.ts'
import { removeLeftovers } from '../io/leftovers.ts'
import { addEncoded, lastLine } from './link-record.ts'

/** The linkage record of an image lies beside it. @param image absolute, without symbolic links */
export function recordOf(image: string): string {
  return `${image}.vdisk-link`
}

/** A small file beside an image. Names that lead elsewhere are not followed. */
export class RecordFile implements SideFile {
  readonly name: string
  private readonly files: Files
  private readonly durable: boolean

  constructor(files: Files, name: string, durable: boolean) {
    this.files = files
    this.name = name
    this.durable = durable
  }

  *read(limit: number): Io<Uint8Array | undefined> {
    const { name } = this
    const found = this.files.look(name)
    if (!found) return undefined
    if (found.kind !== 'file') {
      throw new VdiskError('REFUSED', { message: `Cannot read ${name}: it is no regular file`, where: { file: name } })
    }
    const store = this.files.open(name, { noFollow: true })
    try {
      const size = yield* settle(store.size())
      if (size > limit) {
        throw new VdiskError('LIMIT_EXCEEDED', {
          message: `Cannot read ${name}: it has ${size} bytes, and a linkage record has ${limit} at most`,
          where: { file: name },
        })
      }
      const bytes = new Uint8Array(size)
      yield* settle(store.read(0, bytes))
      return bytes
    } finally {
      store.close()
    }
  }

  *append(bytes: Uint8Array): Io<void> {
    const { name, files, durable } = this
    const isNew = files.look(name) === undefined
    yield* this.writeTo(name, isNew ? 'new' : undefined, bytes)
    if (isNew && durable) files.flushFolder(path.dirname(name))
  }

  *replace(bytes: Uint8Array): Io<void> {
    const { name, files, durable } = this
    const fresh = `${name}.partial`
    try {
      yield* this.writeTo(fresh, 'replace', bytes)
      files.rename(fresh, name)
    } catch (error) {
      removeLeftovers(files, [fresh], error)
    }
    if (durable) files.flushFolder(path.dirname(name))
  }

  /** Adds bytes to the end of a file, durably. */
  private *writeTo(file: string, create: OpenFileOptions['create'], bytes: Uint8Array): Io<void> {
    const how = create === undefined ? {} : { create }
    const store = this.files.open(file, { write: true, noFollow: true, durable: this.durable, ...how })
    try {
      yield* settle(store.write(yield* settle(store.size()), bytes))
      yield* settle(store.flush())
    } finally {
      store.close()
    }
  }

  remove(): void {
    this.files.remove(this.name, { missing: 'allow' })
  }
}

/**
 * Before an image that was made under another name takes its own: the record that is beside it comes along. The image that
 * it replaces, if it ever comes to that, still finds what was said of it.
 *
 * @returns what is to be done once the image has its name
 */
export function* moveRecord(files: Files, from: string, to: string, durable: boolean): Io<() => void> {
  const [old, next] = [from, to].map((image) => new RecordFile(files, recordOf(path.resolve(image)), durable)) as [
    RecordFile,
    RecordFile,
  ]
  const line = yield* lastLine(old)
  if (line === undefined) return () => next.remove()
  yield* addEncoded(next, line)
  return () => old.remove()
}
