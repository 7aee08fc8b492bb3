import path from 'node:path'
import type { FileStore, Files } from '../io/files.ts'
import { runSync, settle } from '../io/io.ts'

/** How a note begins; names follow, a line each. */
const FIRST_LINE = 'Files of an image that vdisk is making. If no vdisk is at work on it, they can go, and this too.'
/** Bytes of a note that are looked at. */
const MOST = 1 << 20

/**
 * The files that are made beside an image while that grows under another name.
 *
 * They have the names that they will keep, so one that is killed leaves them in the way of the next. So each is written
 * down before it is made, durably, in a note beside the file that grows:
 *
 *   name in the note → F → file made → ... → image gets its name → F of the folder → note removed
 *
 * What a note says counts as long as the file is there that grew: then no image needs what it names. The next one to make
 * an image in that place removes the files, then the file that grew, then the note, so that it can be killed at that as well.
 *
 * A note is a file in a folder, and could be anybody's: nothing is removed by it but files beside it that are called after
 * the image, as its parts are.
 */
export class Unfinished {
  private readonly files: Files
  /** the file that grows */
  private readonly target: string
  /** the file that has the names */
  readonly note: string
  /** how the names of its parts begin */
  private readonly stem: string
  private readonly durable: boolean
  private store: FileStore | undefined
  private length = 0

  /** @param target the file that grows; `name` what it will be called */
  constructor(target: string, name: string, { files, durable }: { readonly files: Files; readonly durable: boolean }) {
    this.files = files
    this.target = path.resolve(target)
    this.note = `${this.target}.files`
    this.stem = `${path.basename(name, path.extname(name))}-`
    this.durable = durable
  }

  /** A file is about to be made. It is noted if it is one of those that a note can have removed. */
  add(file: string): void {
    const name = path.basename(file)
    if (path.dirname(path.resolve(file)) !== path.dirname(this.target) || !this.isPart(name)) return
    const isNew = this.store === undefined
    this.store ??= this.files.open(this.note, { write: true, create: 'new', noFollow: true, durable: this.durable })
    const text = Buffer.from(`${isNew ? `${FIRST_LINE}\n` : ''}${name}\n`)
    runSync(settle(this.store.write(this.length, text)))
    this.length += text.length
    runSync(settle(this.store.flush()))
    if (isNew && this.durable) this.files.flushFolder(path.dirname(this.target))
  }

  /** Removes what one that was killed has left. @throws VdiskError where something of it cannot be removed */
  clear(): void {
    const { files, target, note } = this
    const isThere = files.look(note)?.kind === 'file'
    if (files.look(target)) {
      for (const name of isThere ? this.noted() : []) {
        const file = path.join(path.dirname(target), name)
        if (files.look(file)?.kind === 'file') files.remove(file, { missing: 'allow' })
      }
      // A system that fails may keep the later of two removals alone.
      if (isThere && this.durable) files.flushFolder(path.dirname(target))
      files.remove(target)
    }
    if (!isThere) return
    if (this.durable) files.flushFolder(path.dirname(target))
    files.remove(note, { missing: 'allow' })
  }

  /** The image has its name, or its files are gone: nothing is unfinished any more. */
  end(): void {
    if (this.store === undefined) return
    this.close()
    this.files.remove(this.note, { missing: 'allow' })
  }

  /** Lets go of the note, which stays. */
  close(): void {
    this.store?.close()
    this.store = undefined
  }

  /** Names in whole lines: of the last one only a part may have come to the medium. */
  private noted(): string[] {
    const store = this.files.open(this.note, { noFollow: true })
    try {
      const bytes = new Uint8Array(Math.min(MOST, runSync(settle(store.size()))))
      runSync(settle(store.read(0, bytes)))
      const [first, ...names] = Buffer.from(bytes).toString('utf8').split('\n').slice(0, -1)
      return first === FIRST_LINE ? names.filter((name) => this.isPart(name)) : []
    } finally {
      store.close()
    }
  }

  private isPart(name: string): boolean {
    return name.startsWith(this.stem) && path.basename(name) === name && !/[\0\n]/.test(name)
  }
}
