import { crc32 } from '../bytes/crc32.ts'
import { parseJson } from '../contracts/link-document.ts'
import type { FileStore } from '../io/files.ts'
import { type Io, promised, settle } from '../io/io.ts'
import type { BackupFormat } from './catalogue.ts'
import type { BackupFolder } from './folder.ts'

const NAME = 'unfinished'

/** What a backup that is being made is to become. One that was cut short is gone on with only if all of it is the same. */
export interface Plan {
  readonly number: number
  readonly file: string
  readonly format: BackupFormat
  /** bytes of the disk */
  readonly size: number
  /** file of the layer that it stands over; undefined: it holds everything */
  readonly over: string | undefined
  /** changes are told from here on; undefined: all of the disk is read */
  readonly since: string | undefined
  readonly options: Readonly<Record<string, string>>
}

/**
 * What a backup that was cut short has done: a text file, a line for each section that is complete and durable, with the token
 * of the moment of which its content is. A line without its checksum, and all after it, do not count.
 */
export class Unfinished {
  /** the token of each section that is done, by its number */
  readonly done: ReadonlyMap<number, string>
  private readonly store: FileStore
  private end: number

  private constructor(store: FileStore, end: number, done: ReadonlyMap<number, string>) {
    this.store = store
    this.end = end
    this.done = done
  }

  /** What is left of a backup that was cut short; undefined: nothing, or that of another plan. */
  static async find(folder: BackupFolder, plan: Plan): Promise<Unfinished | undefined> {
    const name = folder.pathOf(NAME)
    const bytes = await promised(folder.readFile(name))
    if (!bytes) return undefined
    const { lines, end } = linesOf(bytes)
    if (lines[0] !== JSON.stringify(plan)) return undefined
    const done = new Map<number, string>()
    for (const line of lines.slice(1)) {
      const entry = parseJson(line)
      if (!Array.isArray(entry)) continue
      const [section, token] = entry
      if (typeof section === 'number' && typeof token === 'string') done.set(section, token)
      else if (typeof section === 'number') done.delete(section)
    }
    return new Unfinished(folder.files.open(name, { write: true, noFollow: true, durable: folder.durable }), end, done)
  }

  static async begin(folder: BackupFolder, plan: Plan): Promise<Unfinished> {
    const name = folder.pathOf(NAME)
    const first = encode(JSON.stringify(plan))
    await promised(folder.replace(name, first))
    const store = folder.files.open(name, { write: true, noFollow: true, durable: folder.durable })
    return new Unfinished(store, first.length, new Map())
  }

  /** Removes what is left of any backup that was cut short; its files are the caller's to remove. */
  static remove(folder: BackupFolder): void {
    folder.files.remove(folder.pathOf(NAME), { missing: 'allow' })
  }

  /** Notes, durably, of which moment sections are. @param token undefined: they are of none any more */
  *note(sections: readonly number[], token: string | undefined): Io<void> {
    if (sections.length === 0) return
    const bytes = Buffer.concat(sections.map((section) => encode(JSON.stringify([section, token ?? null]))))
    yield* settle(this.store.write(this.end, bytes))
    yield* settle(this.store.flush())
    this.end += bytes.length
  }

  close(): void {
    this.store.close()
  }
}

function encode(line: string): Uint8Array {
  const bytes = new TextEncoder().encode(line)
  return Buffer.concat([bytes, new TextEncoder().encode(` ${sumOf(bytes)}\n`)])
}

function sumOf(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, '0')
}

/** The lines up to the first that is not whole, and where that begins. */
function linesOf(bytes: Uint8Array): { lines: readonly string[]; end: number } {
  const lines: string[] = []
  let end = 0
  for (;;) {
    const stop = bytes.indexOf(0x0a, end)
    const text = stop === -1 ? '' : new TextDecoder().decode(bytes.subarray(end, stop))
    const line = text.slice(0, -9)
    if (stop === -1 || text.slice(-9) !== ` ${sumOf(new TextEncoder().encode(line))}`) return { lines, end }
    lines.push(line)
    end = stop + 1
  }
}
