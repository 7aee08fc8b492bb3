import { fileHash, mixed, textHash } from './fingerprint.ts'
import { PAGE, type PagedFile } from './paged-file.ts'
import type { Question } from './scene.ts'

/** A moment of which somebody has a token. */
export interface KnownMoment<T> {
  readonly token: T
  /** length of the log when it was handed out */
  readonly at: number
  readonly content: PagedFile
}

/** What is asked after a crash of which these moments are known. */
export function questionOf(moments: readonly KnownMoment<unknown>[]): Question {
  let hash = moments.length
  for (const { token, content } of moments) {
    hash = mixed(mixed(hash, textHash(JSON.stringify(token))), fileHash(content))
  }
  return { promised: hash, possible: hash }
}

/** Answers that were looked at: so that nobody is content with those that say "all of it". */
export const answers = { exact: 0, full: 0 }

/** What is told of a disk that was found after a crash, and what it holds. */
export interface Told {
  /** beginnings and ends of ranges, in bytes */
  readonly told: readonly number[]
  /** pages that were ever written to */
  readonly touched: Iterable<number>
  /** bytes of the disk */
  readonly size: number
  /** A page of the disk, as far as the disk goes; undefined: zeros. */
  readonly read: (number: number) => Uint8Array | undefined
}

const ZEROS = new Uint8Array(PAGE)

/** Each page that differs from what was there at a moment must be told. @throws Error for one that is not */
export function expectTold({ token, content }: KnownMoment<unknown>, { told, touched, size, read }: Told): void {
  for (const number of touched) {
    const at = number * PAGE
    if (at >= size || includes(told, at)) continue
    const [now, then] = [read(number), content.page(number)]
    if (now === then) continue
    const length = Math.min(PAGE, size - at)
    if (Buffer.compare((now ?? ZEROS).subarray(0, length), (then ?? ZEROS).subarray(0, length)) === 0) continue
    throw new Error(`page ${number} is another one than at ${JSON.stringify(token)}, and is not told`)
  }
  if (size <= content.size || (includes(told, content.size) && includes(told, size - 1))) return
  throw new Error(`the disk has become larger since ${JSON.stringify(token)}, and that is not told`)
}

function includes(told: readonly number[], at: number): boolean {
  for (let i = 0; i < told.length; i += 2) if ((told[i] as number) <= at && at < (told[i + 1] as number)) return true
  return false
}
