import path from 'node:path/posix'
import type { Entry, FileStore, Files, OpenFileOptions } from '../../lib/io/files.ts'
import { memoryFiles } from '../support/memory-files.ts'
import type { CrashFolder } from './crash-folder.ts'
import { fileHash } from './fingerprint.ts'

/** What a reader asks the files of a medium, one after the other. */
type Question = { readonly kind: 'look' | 'open' | 'list'; readonly name: string }

/** What followed from the answers so far: the next question, or the end. */
type Node<T> = { question: Question; readonly after: Map<string, Node<T>> } | { readonly result: T }

/** Results that are kept at most: each has some pages of a disk. */
const MOST = 400

/**
 * What readers have found, by what they asked for and were told.
 *
 * A reader is decided by the names that it asks for, and by the bytes, sizes and times of the files that it opens. Where all of
 * them are as they were once before, it would find the same again: after most crashes most files of a chain are.
 */
export class Recollection<T> {
  private readonly roots = new Map<string, Node<T>>()
  private kept = 0

  /** What `read` finds; from memory, if it was told the same before. @param about which reader it is */
  async of(about: string, folder: CrashFolder, read: (files: Files) => Promise<T>): Promise<T> {
    let node = this.roots.get(about)
    while (node && 'question' in node) node = node.after.get(answerTo(folder, node.question))
    if (node) return node.result
    const files = new WitnessedFiles(folder)
    const before = folder.log.length
    const result = await read(files)
    // Who changes something is no mere reader.
    if (folder.log.length === before && this.kept < MOST) this.keep(about, files.heard, result)
    return result
  }

  private keep(about: string, heard: readonly Heard[], result: T): void {
    this.kept++
    let place = (node: Node<T>): unknown => this.roots.set(about, node)
    let node = this.roots.get(about)
    for (const { question, answer } of heard) {
      if (!node || !('question' in node)) {
        node = { question, after: new Map() }
        place(node)
      }
      const { after } = node
      place = (next) => after.set(answer, next)
      node = after.get(answer)
    }
    place({ result })
  }
}

interface Heard {
  readonly question: Question
  readonly answer: string
}

function answerTo(folder: CrashFolder, { kind, name }: Question): string {
  if (kind === 'list') return [...folder.medium.names.keys()].filter((one) => path.dirname(one) === name).join('\n')
  if (!folder.has(name)) return ''
  const number = folder.numberOf(name)
  if (kind === 'look') return String(number)
  const file = folder.fileBehind(number)
  return `${number} ${fileHash(file)} ${file.size} ${file.modified}`
}

/** Files in memory, and all that they were asked. */
class WitnessedFiles implements Files {
  readonly heard: Heard[] = []
  private readonly folder: CrashFolder
  private readonly files: Files

  constructor(folder: CrashFolder) {
    this.folder = folder
    this.files = memoryFiles(folder)
  }

  open(file: string, options: OpenFileOptions = {}): FileStore {
    this.hear('open', file)
    return this.files.open(file, options)
  }

  look(file: string): Entry | undefined {
    this.hear('look', file)
    const entry = this.files.look(file)
    // Whether it is a folder depends on what else there is.
    if (!this.folder.has(path.resolve(file))) this.hear('list', file)
    return entry
  }

  find(file: string): Entry | undefined {
    return this.look(file)
  }

  realPath(file: string): string {
    return this.files.realPath(file)
  }

  list(folder: string): ReturnType<Files['list']> {
    this.hear('list', folder)
    return this.files.list(folder)
  }

  rename(from: string, to: string): void {
    this.files.rename(from, to)
  }

  makeFolder(folder: string): void {
    this.files.makeFolder(folder)
  }

  remove(file: string, options?: { readonly missing: 'allow' }): void {
    this.files.remove(file, options)
  }

  setMode(file: string, mode: number): void {
    this.files.setMode(file, mode)
  }

  flushFolder(folder: string): void {
    this.files.flushFolder(folder)
  }

  private hear(kind: Question['kind'], file: string): void {
    const question = { kind, name: path.resolve(file) }
    this.heard.push({ question, answer: answerTo(this.folder, question) })
  }
}
