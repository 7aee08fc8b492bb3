import fs from 'node:fs'
import path from 'node:path'
import { VdiskError } from '../../lib/index.ts'
import { processStart } from '../process-start.ts'
import { keyOf, recordFolder } from '../records.ts'
import type { Attachment } from './attachments.ts'

/** A file system as lists of mounts show it. */
export interface ShownFilesystem {
  /** as blkid calls it */
  readonly type: string
  /** number of the partition; undefined: the whole disk */
  readonly partition?: number | undefined
  /** `kernel`, or the program that shows the file system */
  readonly driver: string
}

/**
 * What is known of a file system that is mounted, or is being so: a small JSON file that the commands keep.
 *
 * It is there before anything is mounted, and goes when all of it is undone; a step is noted before it is made. So a
 * command that was cut short leaves nothing that the next one does not know of.
 */
export interface FilesystemNote {
  /** where the files are to be seen: absolute, without symbolic links */
  readonly at: string
  /** where the disk is mounted, out of everybody's sight */
  readonly disk: string
  readonly images: readonly string[]
  /** what was done on top of the disk, in order */
  readonly attached: readonly Attachment[]
  /** undefined while it is being mounted */
  readonly filesystem: ShownFilesystem | undefined
  /** the command that mounts it */
  readonly maker: { readonly pid: number; readonly processStart: string }
}

/**
 * Begins a note, and makes the place for the disk.
 *
 * @throws VdiskError IN_USE if another command does the same at this moment
 */
export function beginNote(at: string, images: readonly string[]): FilesystemNote {
  const folder = folderOf(at)
  const maker = { pid: process.pid, processStart: processStart(process.pid) ?? '' }
  const note = { at, disk: path.join(folder, 'disk'), images, attached: [], filesystem: undefined, maker }
  fs.mkdirSync(note.disk, { recursive: true, mode: 0o700 })
  const own = path.join(folder, `${NOTE}.${process.pid}`)
  fs.writeFileSync(own, textOf(note), { mode: 0o600 })
  try {
    // Whole, and by one of two commands only.
    fs.linkSync(own, path.join(folder, NOTE))
    return note
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    throw new VdiskError('IN_USE', {
      message: `Cannot mount on ${at}: another command is about to do so`,
      where: { file: at },
      advice: 'See what becomes of it: vdisk mounts',
    })
  } finally {
    fs.rmSync(own)
  }
}

/** Writes a note, whole or not at all. */
export function writeNote(note: FilesystemNote): void {
  const file = path.join(folderOf(note.at), NOTE)
  fs.writeFileSync(`${file}.new`, textOf(note), { mode: 0o600 })
  fs.renameSync(`${file}.new`, file)
}

/** The note of a place, or of the hidden place of its disk. */
export function readNote(place: string): FilesystemNote | undefined {
  return parse(folderOf(place)) ?? readNotes().find(({ disk }) => disk === place)
}

/** All notes of this user. */
export function readNotes(): FilesystemNote[] {
  const folder = path.join(recordFolder(), FOLDER)
  const names = fs.existsSync(folder) ? fs.readdirSync(folder) : []
  return names.map((name) => parse(path.join(folder, name))).filter((note) => note !== undefined)
}

/** Removes a note and the place of its disk, where nothing is mounted any more: never what is in it. */
export function removeNote({ at, disk }: FilesystemNote): void {
  if (fs.existsSync(disk)) fs.rmdirSync(disk)
  fs.rmSync(folderOf(at), { recursive: true, force: true })
}

/** Whether the command that mounts it is still at work. */
export function isBeingMade({ filesystem, maker }: FilesystemNote): boolean {
  return filesystem === undefined && maker.pid !== process.pid && processStart(maker.pid) === maker.processStart
}

function folderOf(at: string): string {
  return path.join(recordFolder(), FOLDER, keyOf(at))
}

const FOLDER = 'filesystems'
const NOTE = 'note.json'

function textOf(note: FilesystemNote): string {
  return `${JSON.stringify(note, null, 2)}\n`
}

/** A folder without a note was left by a command that had just begun, or had almost finished: it has nothing to tell. */
function parse(folder: string): FilesystemNote | undefined {
  try {
    return JSON.parse(fs.readFileSync(path.join(folder, NOTE), 'utf8')) as FilesystemNote
  } catch {
    return undefined
  }
}
