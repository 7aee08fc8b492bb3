import { isVdiskError, type VdiskError } from '../errors.ts'
import type { BoundedStore } from '../io/bounded-store.ts'
import type { Io } from '../io/io.ts'
import { CONCERNS, type ConcernCode, type ConcernSeverity } from './concerns.ts'

/** One thing that speaks against an image from a stranger, or is worth knowing about it. */
export interface Concern {
  readonly code: ConcernCode
  readonly severity: ConcernSeverity
  readonly structure: string
  /** bytes in the file */
  readonly at: number | undefined
  /** of the format's specification */
  readonly section: string | undefined
  readonly message: string
  /** what to do */
  readonly advice: string
}

export interface Place {
  readonly structure: string
  readonly at?: number | undefined
  readonly section?: string | undefined
}

/** Knows a format well enough to judge whether a file of it needs, or hides, anything besides itself. */
export interface Inspector {
  /** of the format */
  readonly name: string
  recognizes(file: BoundedStore): Io<boolean>
  /**
   * Judges a file that it recognizes. Opens nothing, believes nothing, and copes with every damage: what cannot be
   * read is a concern too.
   */
  inspect(file: BoundedStore, inspection: Inspection): Io<void>
}

/** Concerns kept of each kind: so none can be hidden behind many of another. */
const KEPT = 20

/** What the complaint of a parser means for whoever does not know where the image is from. */
const MEANING: Readonly<Record<string, ConcernCode>> = {
  NOT_THIS_FORMAT: 'DAMAGED',
  CORRUPT: 'DAMAGED',
  UNSUPPORTED: 'UNKNOWN_FEATURE',
  LIMIT_EXCEEDED: 'TABLE_TOO_LARGE',
  OUT_OF_RANGE: 'TRUNCATED',
}

/** Collects what an inspection finds. */
export class Inspection {
  readonly concerns: Concern[] = []
  /** bytes of the disk, as the image has it; undefined: it does not say, or not so that one can tell */
  size: number | undefined
  /** whether the disk lies in the file as it is, from the beginning; or so may its first sectors at least */
  plain: 'whole' | 'beginning' | 'no' = 'no'

  add(code: ConcernCode, place: Place, message: string): void {
    if (this.concerns.filter((one) => one.code === code).length >= KEPT) return
    const { structure, at, section } = place
    const { severity, advice } = CONCERNS[code]
    this.concerns.push({ code, severity, structure, at, section, message, advice })
  }

  /** The file ends before a structure does. */
  truncated(place: Place): void {
    this.add('TRUNCATED', place, `The file ends before its ${place.structure} does.`)
  }

  /**
   * Does what a parser of the format does; its complaint is a concern.
   *
   * @returns undefined if it complained. @throws what is no complaint about the file, such as VdiskError IO
   */
  *attempt<T>(work: () => Io<T>): Io<T | undefined> {
    try {
      return yield* work()
    } catch (error) {
      const code = isVdiskError(error) ? MEANING[error.code] : undefined
      if (!code) throw error
      const { where, message } = error as VdiskError
      const { structure = 'structure', at, section } = where
      this.add(code, { structure, at, section }, sentence(message, where.file))
      return undefined
    }
  }
}

/** The part of an error's sentence that says why. */
function sentence(message: string, file: string | undefined): string {
  const mark = file === undefined ? ': ' : `${file}: `
  const at = message.indexOf(mark)
  const why = at < 0 ? message : message.slice(at + mark.length)
  return `${(why[0] ?? '').toUpperCase()}${why.slice(1)}.`
}

/** A name from a file, in quotes: fit for a sentence, whatever it holds. */
export function quoted(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
  const shown = text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
  return `"${shown.length > 200 ? `${shown.slice(0, 200)}...` : shown}"`
}
