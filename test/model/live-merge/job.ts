import { flushed, present, put } from './cell.ts'
import { flushBase, flushChild, leave, targetFails, writeTarget } from './effects.ts'
import type { JobStep, Protocol, Rule } from './rule.ts'
import {
  allocatedIn,
  COMPLETE,
  Mark,
  type Phase,
  SILENT,
  type State,
  sectorsOf,
  sizeOf,
  withLetter,
  ZERO,
} from './state.ts'

/** Steps that are taken in order; which ones, and in which order, the protocol's lists say. */
export const jobSteps: Readonly<Record<string, JobStep>> = {
  'teach C': {
    says: 'C learns which identity B is about to get',
    effect: (state) => {
      state.knows = put(state.knows, 'y')
    },
  },
  'mark B': {
    says: 'B takes its next identity, and says that C is being merged into it',
    effect: (state) => {
      state.mark = put(state.mark, Mark.merging)
    },
  },
  'grow B': {
    says: "B's disk grows to the size of C's, zero where it is new, durably and in one step",
    effect: (state) => {
      for (let sector = state.baseEnd; sector < sizeOf(state.scenario); sector++) state.base[sector] = ZERO
      state.baseEnd = sizeOf(state.scenario)
    },
  },
  drain: {
    says: 'all that the guest had begun has ended',
    guard: isDrained,
    effect: () => {},
  },
  'flush B': { says: 'the job flushes B', effect: flushBase },
  'flush C': { says: 'the job flushes C', effect: flushChild },
  record: {
    says: 'the journal gets the record: B is complete',
    effect: (state) => {
      state.journal = put(state.journal, COMPLETE)
    },
  },
  'flush journal': {
    says: 'the job flushes the journal',
    effect: (state) => {
      state.journal = flushed(state.journal)
    },
  },
  repoint: {
    says: 'the name of the disk leads to B',
    effect: (state) => {
      state.link = put(state.link, 'B')
    },
  },
  'flush folder': {
    says: 'the job flushes the folder',
    effect: (state) => {
      state.link = flushed(state.link)
      state.entry = flushed(state.entry)
    },
  },
  resume: {
    says: 'the guest goes on, with B alone',
    effect: (state) => {
      state.phase = 'switched'
      state.step = -1
    },
  },
  'remove C': {
    says: 'C is removed',
    effect: (state) => {
      state.entry = put(state.entry, 'n')
    },
  },
  'unmark B': {
    says: 'B says that it is whole',
    effect: (state) => {
      state.mark = put(state.mark, Mark.whole)
    },
  },
  'empty journal': {
    says: 'the journal is emptied',
    effect: (state) => {
      state.journal = put(state.journal, '0')
    },
  },
  'accept C': {
    says: 'C is taken as it is now',
    effect: (state) => {
      state.strange = false
    },
  },
}

/** Nobody of the guest's is under way, and nothing is left to copy. */
export function isDrained(state: State): boolean {
  const idle = !state.writers.includes('b') && state.flush === '-' && state.reader === ''
  return idle && !state.chunks.includes('t')
}

function listOf(state: State, protocol: Protocol): readonly string[] {
  const { preparation, switching, clearing, voiding } = protocol
  return { preparing: preparation, switching, switched: clearing, voiding }[state.phase as string] ?? []
}

const AFTER: Partial<Record<Phase, Phase>> = { preparing: 'merging', switched: 'finished', voiding: 'plain' }

function nextStep(state: State, protocol: Protocol): { name: string; step: JobStep } | undefined {
  const name = listOf(state, protocol)[state.step]
  return name === undefined ? undefined : { name, step: jobSteps[name] as JobStep }
}

/** The job may still be left: the record has not been written. */
function isUndecided(state: State, protocol: Protocol): boolean {
  if (state.phase === 'switching') return state.step <= protocol.switching.indexOf('record')
  return state.phase === 'preparing' || state.phase === 'merging'
}

/** Chunks from the first one on that are done, and that no writer is at. */
export function doneInOrder(state: State): number {
  const first = state.chunks.split('').findIndex((chunk, i) => chunk !== 'd' || state.locks[i] !== '')
  return first === -1 ? state.chunks.length : first
}

function skipSilent(state: State): void {
  while (state.held[state.next] === SILENT) state.next++
}

function copyNext(state: State): void {
  const sector = (sectorsOf(state, state.copying)[0] as number) + state.next
  writeTarget(state, sector, state.held[state.next] as string)
  state.allowance--
  state.next++
  skipSilent(state)
}

export const jobRules = {
  'merge begins': {
    by: 'job',
    says: ({ persisted }) => `the merge begins; by the journal ${persisted} chunks are done`,
    guard: (state) =>
      !state.scenario.sibling && (state.phase === 'plain' || (state.phase === 'left' && state.chances.again > 0)),
    effect: (state) => {
      if (state.phase === 'left') state.chances = { ...state.chances, again: state.chances.again - 1 }
      state.phase = 'preparing'
      state.step = 0
      for (let chunk = 0; chunk < state.persisted && state.locks[chunk] === ''; chunk++) {
        state.chunks = withLetter(state.chunks, chunk, 'd')
      }
      state.allowance = state.chunks
        .split('')
        .reduce((sum, chunk, i) => sum + (chunk === 't' ? allocatedIn(state, i) : 0), 0)
    },
  },
  'merge is refused': {
    by: 'job',
    says: () => 'the merge is refused: another image is built upon B',
    guard: (state) => state.scenario.sibling === true && state.phase === 'plain',
    effect: (state) => {
      state.phase = 'refused'
    },
  },
  'next of its list': {
    by: 'job',
    says: (state, _, protocol) => nextStep(state, protocol)?.step.says ?? '',
    guard: (state, _, protocol) => {
      const next = nextStep(state, protocol)
      return next !== undefined && (next.step.guard?.(state) ?? true)
    },
    effect: (state, _, protocol) => {
      nextStep(state, protocol)?.step.effect(state)
      state.step++
      if (state.step < listOf(state, protocol).length) return
      state.phase = AFTER[state.phase] ?? state.phase
      state.step = 0
    },
  },
  'a chunk is locked': {
    by: 'job',
    each: 'chunk',
    says: (_, chunk) => `the copier locks chunk ${chunk}`,
    guard: (state, chunk) =>
      state.phase === 'merging' && state.copying === -1 && state.chunks[chunk] === 't' && state.locks[chunk] === '',
    effect: (state, chunk) => {
      state.chunks = withLetter(state.chunks, chunk, 'c')
      state.locks[chunk] = 'k'
      state.copying = chunk
    },
  },
  'a chunk is read': {
    by: 'job',
    says: ({ copying }) => `the copier reads what C has of chunk ${copying}`,
    guard: (state) => state.copying !== -1 && state.held === '',
    effect: (state) => {
      state.held = sectorsOf(state, state.copying)
        .map((sector) => present(state.child[sector] as string))
        .join('')
      skipSilent(state)
    },
  },
  'a sector is copied': {
    by: 'job',
    says: ({ copying, next }) => `the copier writes sector ${next} of chunk ${copying} to B`,
    guard: isCopying,
    effect: copyNext,
  },
  'a chunk is done': {
    by: 'job',
    says: ({ copying }) => `chunk ${copying} is done, and its lock is free`,
    guard: (state) => state.held !== '' && state.next >= state.held.length,
    effect: (state) => {
      state.chunks = withLetter(state.chunks, state.copying, 'd')
      state.locks[state.copying] = (state.locks[state.copying] as string).replace('k', '')
      state.copying = -1
      state.held = ''
      state.next = 0
    },
  },
  'flush for the watermark begins': {
    by: 'job',
    says: (state) => `the job flushes B and C for a watermark of ${doneInOrder(state)}`,
    guard: (state) =>
      state.phase === 'merging' &&
      state.chances.watermark > 0 &&
      state.settling === -1 &&
      doneInOrder(state) > Math.max(state.persisted, state.safe),
    effect: (state) => {
      // A flush promises what was written before it began, so what it makes safe is decided now. C too: the copy took
      // bytes from it that it might lose, and then it would show older ones than B.
      state.settling = doneInOrder(state)
      flushBase(state)
      flushChild(state)
      state.chances = { ...state.chances, watermark: state.chances.watermark - 1 }
    },
  },
  'flush for the watermark ends': {
    by: 'job',
    says: () => 'both flushes have ended',
    guard: (state) => state.settling !== -1,
    effect: (state) => {
      state.safe = state.settling
      state.settling = -1
    },
  },
  'watermark is written': {
    by: 'job',
    says: ({ safe }) => `the watermark in the journal becomes ${safe}`,
    guard: (state) => state.phase === 'merging' && state.safe > state.persisted,
    effect: (state) => {
      state.journal = put(state.journal, String(state.safe))
      state.persisted = state.safe
    },
  },
  'switch begins': {
    by: 'job',
    says: () => 'all chunks are done: no new operation of the guest begins',
    guard: (state) => state.phase === 'merging' && /^d+$/.test(state.chunks) && state.settling === -1,
    effect: (state) => {
      state.phase = 'switching'
      state.step = 0
    },
  },
  'back to copying': {
    by: 'job',
    says: () => 'a chunk is to be copied again, so the guest goes on',
    guard: (state) => state.phase === 'switching' && state.step === 0 && state.chunks.includes('t'),
    effect: (state) => {
      state.phase = 'merging'
    },
  },
  'copy fails': {
    by: 'trouble',
    says: () => 'the copier cannot write to B, and the job ends',
    guard: (state) => state.chances.targetFailure > 0 && isCopying(state),
    effect: targetFails,
  },
  'copy fails after the bytes landed': {
    by: 'trouble',
    says: () => 'the copier writes to B; that fails, but the bytes are there; the job ends',
    guard: (state) => state.chances.targetFailure > 0 && isCopying(state),
    effect: (state) => {
      copyNext(state)
      targetFails(state)
    },
  },
  'flush of B fails': {
    by: 'trouble',
    says: () => 'a flush of B fails, and the job ends',
    guard: (state, _, protocol) =>
      state.chances.targetFailure > 0 &&
      isUndecided(state, protocol) &&
      (state.settling !== -1 || nextStep(state, protocol)?.name === 'flush B'),
    effect: targetFails,
  },
  cancel: {
    by: 'trouble',
    says: () => 'the merge is cancelled',
    guard: (state, _, protocol) => state.chances.cancel > 0 && isUndecided(state, protocol),
    effect: (state) => {
      state.chances = { ...state.chances, cancel: state.chances.cancel - 1 }
      leave(state)
    },
  },
} satisfies Record<string, Rule>

function isCopying(state: State): boolean {
  return state.held !== '' && state.next < state.held.length
}
