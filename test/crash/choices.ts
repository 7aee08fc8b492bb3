import type { Random } from '../support/random.ts'
import type { Entry } from './crash-folder.ts'
import { type Choice, type Kept, pendingAt, pieceEnds } from './crash-state.ts'

/** How many entries on their way may be kept or lost in every combination. */
const EVERY_SUBSET = 8
/** Random combinations, where there are more. */
const RANDOM_SUBSETS = 64
/** Random combinations of sectors, where an entry has several. */
const RANDOM_SECTORS = 8
/** Places where an entry is torn: all, or so many by chance. */
const EVERY_TEAR = 8
const RANDOM_TEARS = 3

/**
 * The crashes that a log is put through, from entry `from` on.
 *
 * Every prefix of it; and before each flush, and at the end, everything that a crash may take back of what is on its
 * way: every subset of few entries, of many each one alone lost, each one alone kept, and random ones; each entry torn
 * with all others kept and with none; random sectors of all; and the size of the files at its least and its most.
 *
 * Each is made when it is asked for: there are thousands of them where a few are tried.
 */
export function* choicesFor(
  log: readonly Entry[],
  from: number,
  sector: number,
  random: Random,
): Generator<() => Choice> {
  for (let end = from; end <= log.length; end++) {
    const last = log[end - 1]
    const next = log[end]
    const isBarrier = next === undefined || next.kind === 'flush' || next.kind === 'flush folder'
    if (last?.kind === 'mark' && !isBarrier) continue
    const pending = pendingAt(log, end)
    const all = pending.map((index) => ({ index }))
    yield () => ({ end, kept: all })
    if (!isBarrier || pending.length === 0) continue
    const resized = pending.some((index) => changesSize(log[index] as Entry))
    for (const kept of subsets(all, random)) {
      yield () => ({ end, kept: kept() })
      if (resized && pending.length <= 4)
        yield () => ({ end, kept: kept(), size: random.chance(0.5) ? 'least' : 'most' })
    }
    for (const kept of tears(log, all, sector, random)) yield () => ({ end, kept: kept() })
    if (pending.some((index) => pieceEnds(log[index] as Entry, sector).length > 1)) {
      for (let i = 0; i < RANDOM_SECTORS; i++) yield () => ({ end, kept: randomSubset(log, all, sector, random) })
    }
    if (!resized) continue
    for (const size of ['least', 'most'] as const) {
      yield () => ({ end, kept: all, size })
      yield () => ({ end, kept: [], size })
    }
  }
}

/** Crashes of a medium that answered its last `lies` flushes without doing anything. */
export function* liedChoices(
  log: readonly Entry[],
  shape: { lies: number; count: number; sector: number },
  random: Random,
): Generator<Choice> {
  for (let i = 0; i < shape.count; i++) {
    const end = 1 + random.below(log.length)
    const all = pendingAt(log, end, shape.lies).map((index) => ({ index }))
    yield { end, kept: randomSubset(log, all, shape.sector, random), liedFlushes: shape.lies }
  }
}

function changesSize(entry: Entry): boolean {
  return entry.kind === 'truncate' || entry.kind === 'write'
}

function* subsets(all: readonly Kept[], random: Random): Generator<() => readonly Kept[]> {
  if (all.length <= EVERY_SUBSET) {
    for (let bits = 0; bits < 2 ** all.length - 1; bits++) yield () => all.filter((_, i) => bits & (1 << i))
    return
  }
  yield () => []
  for (const lost of all) yield () => all.filter((one) => one !== lost)
  for (const kept of all) yield () => [kept]
  for (let i = 0; i < RANDOM_SUBSETS; i++) {
    yield () => {
      const share = random.fraction()
      return all.filter(() => random.chance(share))
    }
  }
}

function* tears(
  log: readonly Entry[],
  all: readonly Kept[],
  sector: number,
  random: Random,
): Generator<() => readonly Kept[]> {
  for (const [place, { index }] of all.entries()) {
    const count = pieceEnds(log[index] as Entry, sector).length
    if (count === 1) continue
    const cuts =
      count - 1 <= EVERY_TEAR
        ? Array.from({ length: count - 1 }, (_, i) => i + 1)
        : Array.from({ length: RANDOM_TEARS }, () => 1 + random.below(count - 1))
    for (const cut of cuts) {
      for (const [first, end] of [
        [0, cut],
        [cut, count],
      ] as const) {
        const torn = (): Kept => ({ index, pieces: Array.from({ length: end - first }, (_, i) => first + i) })
        yield () => all.with(place, torn())
        yield () => [torn()]
      }
    }
  }
}

/** Any part of anything. */
export function randomSubset(log: readonly Entry[], all: readonly Kept[], sector: number, random: Random): Kept[] {
  const share = random.fraction()
  return all.flatMap(({ index }): Kept[] => {
    if (!random.chance(share)) return []
    const count = pieceEnds(log[index] as Entry, sector).length
    if (count === 1 || random.chance(0.7)) return [{ index }]
    const pieces = Array.from({ length: count }, (_, i) => i).filter(() => random.chance(0.5))
    return pieces.length > 0 ? [{ index, pieces }] : []
  })
}

/** A choice as one word, to be given back to `parseChoice`: `17:3,5.0.1,6:least`. */
export function formatChoice(choice: Choice): string {
  const kept = choice.kept.map(({ index, pieces }) => [index, ...(pieces ?? [])].join('.')).join(',')
  const parts = [String(choice.end), kept, choice.size ?? '', choice.liedFlushes ? String(choice.liedFlushes) : '']
  while (parts.at(-1) === '' && parts.length > 2) parts.pop()
  return parts.join(':')
}

export function parseChoice(text: string): Choice {
  const [end, kept = '', size, lies] = text.split(':')
  return {
    end: Number(end),
    kept: kept
      .split(',')
      .filter((word) => word !== '')
      .map((word) => {
        const [index, ...pieces] = word.split('.').map(Number)
        return pieces.length > 0 ? { index: index as number, pieces } : { index: index as number }
      }),
    ...(size === 'least' || size === 'most' ? { size } : {}),
    ...(lies ? { liedFlushes: Number(lies) } : {}),
  }
}
