import fs from 'node:fs'
import path from 'node:path'
import { type ErrorCode, VdiskError, type Where } from '../errors.ts'
import { ERRNO } from './sys.ts'

/** What the file was opened for. */
interface Opening {
  readonly write?: boolean
  readonly create?: 'new' | 'replace'
  readonly noFollow?: boolean
}

/** What Node would say of the same failure. @param errno negative, as native calls answer it */
export function nativeError(errno: number): { code: string | undefined; message: string } {
  const code = Object.entries(ERRNO).find(([, number]) => number === -errno)?.[0]
  return { code, message: code ?? `errno ${-errno}` }
}

/** Errors that mean: no room. */
const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

/** Errors that say something of the name, or of who asks; all the rest are the medium's, or the system's. */
const CODES: readonly (readonly [ErrorCode, ReadonlySet<string>])[] = [
  ['NO_SPACE', FULL],
  ['NOT_FOUND', new Set(['ENOENT', 'ENOTDIR'])],
  ['REFUSED', new Set(['EACCES', 'EPERM', 'ELOOP', 'ENAMETOOLONG'])],
  ['READ_ONLY', new Set(['EROFS'])],
]

/** Errors that mean: this process, or all of them, may not have more files open. */
const TOO_MANY: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE'])

/** What the system said of a failure. */
interface SystemError {
  readonly code?: string | undefined
  readonly message: string
}

/** An operation on an open file that the system refused. @param verb what could not be done, as `write` */
export function ioError(verb: string, file: string, at: number, error: SystemError): VdiskError {
  return refusal(`${verb} ${file} at ${at}`, { file, at }, error)
}

/** An operation on an open file as a whole, or on a name, that the system refused. IO: the medium is at fault, not the name. */
export function fileError(verb: string, file: string, error: SystemError): VdiskError {
  return refusal(`${verb} ${file}`, { file }, error)
}

/** What a failed flush leaves behind: the kernel may have dropped what was not written, so no later one can make up for it. */
export function flushError(file: string, error: SystemError): VdiskError {
  const full = FULL.has(error.code ?? '')
  return new VdiskError(full ? 'NO_SPACE' : 'IO', {
    message: `Cannot make ${file} durable: ${error.message}`,
    where: { file },
    advice: `What was written since the last flush may be lost. ${full ? 'Free some room' : 'Check the medium'}, open the image again and check it.`,
    cause: error,
  })
}

function refusal(what: string, where: Where, error: SystemError): VdiskError {
  const code = CODES.find(([, codes]) => codes.has(error.code ?? ''))?.[0] ?? 'IO'
  return new VdiskError(code, {
    message: `Cannot ${what}: ${code === 'NO_SPACE' ? 'no room is left' : error.message}`,
    where,
    advice: adviceOn(error),
    cause: error instanceof Error ? error : undefined,
  })
}

function adviceOn({ code = '' }: SystemError): string | undefined {
  if (FULL.has(code)) return 'Free some room on the file system that holds it, then repeat the command.'
  if (TOO_MANY.has(code)) return 'Close other programs, or allow more open files: ulimit -n 4096'
  if (code === 'ENOMEM') return 'The system is short of memory: close other programs, then repeat the command.'
  if (code === 'EIO') return 'Check the medium that holds it: the system log tells more.'
  return undefined
}

/** Why a file could not be opened or made, and what to do. */
export function openError(file: string, error: NodeJS.ErrnoException, options: Opening): VdiskError {
  const refuse = (code: ErrorCode, why: string, advice?: string): VdiskError =>
    new VdiskError(code, {
      message: `Cannot ${options.create ? 'create' : 'open'} ${file}: ${why}`,
      where: { file },
      advice,
      cause: error,
    })
  switch (error.code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return options.create
        ? refuse('NOT_FOUND', 'its folder does not exist', 'Make the folder first, or choose another name.')
        : refuse('NOT_FOUND', 'there is no such file', absentAdvice(file))
    case 'EEXIST':
      return refuse('REFUSED', 'it exists already', 'Choose another name, or pass --force to replace it.')
    case 'ELOOP':
      return options.noFollow
        ? refuse('REFUSED', 'it is a symbolic link, which is not followed here', 'Name the file it leads to.')
        : refuse('REFUSED', 'its symbolic links lead in a circle', 'Name the file itself.')
    case 'ENAMETOOLONG':
      return refuse('REFUSED', 'its name is longer than this system allows', 'Choose a shorter name.')
    case 'EISDIR':
      return refuse('REFUSED', 'it is a directory', 'Name an image file in it.')
    case 'ENXIO':
      return refuse('REFUSED', 'it is neither a regular file nor a block device', 'Name a file or a block device.')
    case 'EACCES':
    case 'EPERM':
      return refuse(options.write ? 'READ_ONLY' : 'REFUSED', 'permission denied', permissionAdvice(options))
    case 'EROFS':
      return refuse('READ_ONLY', 'its file system is mounted read-only', 'Mount it writable, or work on a copy.')
    case 'ETXTBSY':
      return refuse('IN_USE', 'the system uses it', 'End what uses it: a swap file, or a loop device.')
    default:
      return fileError(options.create ? 'create' : 'open', file, error)
  }
}

/** A relative name that is not found was most likely given in another folder. */
function absentAdvice(file: string): string {
  if (file === '') return 'Give the name of an image.'
  const link = fs.lstatSync(file, { throwIfNoEntry: false })?.isSymbolicLink()
  if (link) return `It is a symbolic link, and where it leads there is nothing: ${fs.readlinkSync(file)}`
  return path.isAbsolute(file)
    ? 'Check the name.'
    : `Check the name, and the folder: ${path.resolve(file)} was looked for.`
}

function permissionAdvice({ create, write }: Opening): string {
  if (create) return 'Choose a folder that you may write to, or run as a user who may.'
  return write
    ? 'To write, run as a user who may write to the file. A look is possible for whoever may read it.'
    : 'Run as a user who may read the file.'
}
