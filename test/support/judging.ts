import { CONCERNS, type ConcernCode, type Judgement, type JudgeOptions } from '../../lib/index.ts'
import { runSync } from '../../lib/io/io.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { judgeStore } from '../../lib/jobs/inspect.ts'

/** What an inspection must find in a file, and nothing besides. */
export interface Rule {
  readonly title: string
  /** made anew for each test */
  readonly file: () => ByteStore
  readonly options?: JudgeOptions
  /** each kind once, in any order; none: the file is as it should be */
  readonly finds: readonly ConcernCode[]
}

/** The kinds of concerns about a file, each once, in order of the alphabet. */
export function codesIn({ findings }: Judgement): ConcernCode[] {
  return [...new Set(findings.map(({ code }) => code))].sort()
}

export function judge(store: ByteStore, options: JudgeOptions = {}): Judgement {
  return runSync(judgeStore(store, options))
}

/** The verdict that these kinds of concerns make. */
export function verdictOf(codes: readonly ConcernCode[]): Judgement['verdict'] {
  const severities = codes.map((code) => CONCERNS[code].severity)
  if (severities.includes('refuse')) return 'refuse'
  return severities.includes('warn') ? 'warn' : 'accept'
}
