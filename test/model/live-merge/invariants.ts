import { outcomes, present } from './cell.ts'
import {
  COMPLETE,
  chunkOf,
  Mark,
  read,
  readBase,
  readByName,
  readThroughChain,
  SILENT,
  type State,
  sectorsOf,
  sizeOf,
  standsAlone,
  ZERO,
} from './state.ts'

/** Something that must hold in every state. */
export interface Invariant {
  readonly name: string
  holds(state: State): boolean
}

/** Something that must hold of every step. */
export interface StepInvariant {
  readonly name: string
  holds(from: State, state: State): boolean
}

export const invariants: readonly Invariant[] = [
  {
    name: '1 reads: the disk reads as the guest wrote it',
    holds: (state) => everySector(state, (sector) => read(state, sector) === present(state.truth[sector] as string)),
  },
  {
    name: '1 reads: a read that takes time gets what the sector held at some moment of it',
    holds: ({ reader, readable }) => !reader.includes(':') || readable.includes(reader.slice(2)),
  },
  {
    name: '2 to 6 writes: a chunk that is done, and that nobody is writing to, is the same in B as through C',
    holds: (state) =>
      standsAlone(state) ||
      state.chunks
        .split('')
        .every(
          (chunk, i) =>
            chunk !== 'd' ||
            state.locks[i] !== '' ||
            sectorsOf(state, i).every((sector) => readThroughChain(state, sector) === readBase(state, sector)),
        ),
  },
  {
    name: '8 switch: the name of the disk leads to a file',
    holds: ({ phase, link, entry }) => phase !== 'down' || link === 'B' || entry === 'y',
  },
  {
    name: '8 switch: once the record is on the medium, C over B and B alone read the same',
    holds: (state) =>
      state.phase !== 'down' ||
      state.strange ||
      state.journal !== COMPLETE ||
      everySector(state, (sector) => readBase(state, sector) === readByName(state, sector)),
  },
  {
    name: '8 switch: a C that is left over is known as history',
    holds: ({ phase, link, entry, journal }) =>
      !['down', 'finished'].includes(phase) || link === 'C' || entry === 'n' || journal === COMPLETE,
  },
  {
    name: '9 watermark: chunks below it are durable in B, as C has them, whatever a crash keeps',
    holds: (state) =>
      state.strange ||
      mayLeadToBase(state) ||
      everySector(state, (sector) => {
        if (chunkOf(state, sector) >= highestWatermark(state)) return true
        const inChild = outcomes(state.child[sector] as string)
        const inBase = outcomes(state.base[sector] as string)
        if (inChild.length > 1) return false
        return inChild[0] === SILENT || (inBase.length === 1 && inBase[0] === inChild[0])
      }),
  },
  {
    name: '10 identity: B is marked on the medium before anything in it changes',
    holds: (state) =>
      !outcomes(state.mark).includes(Mark.own) ||
      (state.baseEnd === state.scenario.base.length &&
        everySector(
          state,
          (sector) => sector >= state.baseEnd || state.base[sector] === (state.scenario.base[sector] as string),
        )),
  },
  {
    name: '10 identity: C accepts B as it is at every moment',
    holds: ({ mark, knows }) => mark === Mark.own || !outcomes(knows).includes('n'),
  },
  {
    name: '10 identity: B calls itself whole only when the name leads to it for good',
    holds: ({ mark, link }) => !outcomes(mark).includes(Mark.whole) || link === 'B',
  },
  {
    name: '10 identity: where another image is built upon B, B stays untouched',
    holds: (state) =>
      !state.scenario.sibling ||
      (state.mark === Mark.own && everySector(state, (sector) => state.base[sector] === state.scenario.base[sector])),
  },
  {
    name: '11 tracking: what the guest changed is marked before it can be on a medium',
    holds: (state) =>
      everySector(state, (sector) => {
        const possible = outcomes(state.truth[sector] as string)
        return (
          state.tracked[sector] === 'y' ||
          possible.every((content) => 's'.includes(content) || content === firstThrough(state, sector))
        )
      }),
  },
  {
    name: '11 tracking: a copy marks nothing',
    holds: (state) =>
      everySector(
        state,
        (sector) =>
          state.tracked[sector] === 'n' ||
          state.scenario.writers.some(
            ({ from, to }, writer) => state.writers[writer] !== 'r' && from <= sector && sector < to,
          ),
      ),
  },
  {
    name: '12 size: B alone is as large as the disk was',
    holds: (state) => !(standsAlone(state) || mayLeadToBase(state)) || state.baseEnd === sizeOf(state.scenario),
  },
  {
    name: '14 progress: no more is copied than C had, and than was added to chunks still to be copied',
    holds: ({ allowance }) => allowance >= 0,
  },
  {
    name: '15 cancel: after the job is left C stays, and so does the mark in B',
    holds: ({ phase, link, entry, mark, knows }) =>
      phase !== 'left' ||
      (link === 'C' && entry === 'y' && mark !== Mark.whole && (mark === Mark.own || knows === 'y')),
  },
]

export const stepInvariants: readonly StepInvariant[] = [
  {
    name: '13 discard: after a flush a crash does not bring back what was discarded',
    holds: (from, state) =>
      !isCrash(from, state) ||
      everySector(state, (sector) => from.truth[sector] !== ZERO || readByName(state, sector) === ZERO),
  },
  {
    name: '3 copy: where C is silent, no step of the job or of a writer changes B',
    holds: (from, state) =>
      standsAlone(state) ||
      state.phase === 'down' ||
      everySector(
        state,
        (sector) =>
          present(state.child[sector] as string) !== SILENT || readBase(state, sector) === readBase(from, sector),
      ),
  },
  {
    name: '7 flush: what was promised survives a crash, and nothing is read that was never written there',
    holds: (from, state) =>
      !isCrash(from, state) ||
      everySector(state, (sector) => outcomes(from.truth[sector] as string).includes(readByName(state, sector))),
  },
  {
    name: '15 cancel: after the job is left nobody writes to B',
    holds: (from, state) =>
      from.phase !== 'left' ||
      state.phase !== 'left' ||
      state.base.every((cell, i) => present(cell) === present(from.base[i] as string)),
  },
]

/** The first invariant that does not hold; undefined if all do. */
export function complaintAbout(state: State): string | undefined {
  return invariants.find((invariant) => !invariant.holds(state))?.name
}

/** The first invariant of steps that does not hold. */
export function complaintAboutStep(from: State, state: State): string | undefined {
  return stepInvariants.find((invariant) => !invariant.holds(from, state))?.name
}

function everySector(state: State, holds: (sector: number) => boolean): boolean {
  for (let sector = 0; sector < state.base.length; sector++) if (!holds(sector)) return false
  return true
}

function isCrash(from: State, state: State): boolean {
  return from.phase !== 'down' && state.phase === 'down'
}

/** Whether the name leads to B, or may after a crash. */
function mayLeadToBase({ link }: State): boolean {
  return link.includes('B')
}

/** What B read as at the beginning; behind its end that is zero. */
function firstIn({ scenario }: State, sector: number): string {
  return scenario.base[sector] ?? ZERO
}

/** What the disk read as at the beginning. */
function firstThrough(state: State, sector: number): string {
  const own = state.scenario.child[sector] as string
  return own === SILENT ? firstIn(state, sector) : own
}

/** The highest watermark that recovery might find; none where it would find the record. */
function highestWatermark({ journal }: State): number {
  return Math.max(0, ...outcomes(journal).flatMap((value) => (value === COMPLETE ? [] : [Number(value)])))
}
