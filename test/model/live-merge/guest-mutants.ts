import { put } from './cell.ts'
import { flushBase, leave } from './effects.ts'
import { guestRules, lock, locksFree, mayBegin, operationOf, planOfWrite, takeStep } from './guest.ts'
import { jobRules } from './job.ts'
import { type Mutant, withPlan, withRules } from './mutant.ts'
import type { Rule } from './rule.ts'
import { chunkOf, chunksOf, SILENT, type State, ZERO } from './state.ts'

const begins: Rule = guestRules['write begins']

function isMirror(step: string): boolean {
  return step.startsWith('mirror')
}

function targetFirst(plan: readonly string[]): readonly string[] {
  return [...plan.filter(isMirror), ...plan.filter((step) => !isMirror(step))]
}

function nextIs(state: State, writer: number, step: string): boolean {
  return (state.plans[writer] as string).startsWith(step)
}

function withoutWriters(holders: string): string {
  return holders.replaceAll(/[01]/g, '')
}

/** Reads show nothing of it: only a crash does. */
const FLUSHES_TARGET = withRules({
  'flush of the source': {
    effect: (state) => {
      if (!state.chunks.includes('t') && state.phase === 'merging') {
        flushBase(state)
        state.flush = 'f'
      } else guestRules['flush of the source'].effect(state)
    },
  },
})

/** Mistakes in what happens to writes, reads and flushes of the guest, and when the job is left. */
export const guestMutants: readonly Mutant[] = [
  {
    mistake: 'a writer decides between C and both before it has the chunk lock',
    rules: withRules({
      'write begins': {
        guard: (state, writer) => state.writers[writer] === 'r' && mayBegin(state),
        effect: (state, writer, rules) => {
          begins.effect(state, writer, rules)
          state.locks = state.locks.map((holders) => holders.replace(String(writer), ''))
          state.plans[writer] = `lock,${state.plans[writer]}`
        },
      },
      'write goes on': {
        guard: (state, writer) =>
          state.writers[writer] === 'b' && (!nextIs(state, writer, 'lock') || locksFree(state, writer)),
        effect: (state, writer) => {
          if (!nextIs(state, writer, 'lock')) return takeStep(state, writer)
          lock(state, writer)
          state.plans[writer] = (state.plans[writer] as string).slice('lock,'.length)
        },
      },
    }),
    scenario: 'apart',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'a writer gets its answer, and gives its locks back, before it has written to B',
    rules: {
      ...withRules({
        'write goes on': {
          guard: (state, writer) => state.plans[writer] !== '',
          effect: (state, writer) => takeStep(state, writer),
        },
      }),
      plan: (state, writer) => {
        const plan = planOfWrite(state, writer)
        return [...plan.filter((step) => !isMirror(step)), ...plan.filter(isMirror)]
      },
    },
    scenario: 'apart',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'a writer that finds a chunk being copied does not wait for it',
    rules: withRules({
      'write begins': {
        guard: (state, writer) =>
          state.writers[writer] === 'r' &&
          mayBegin(state) &&
          chunksOf(state, operationOf(state, writer)).every((chunk) => !/[01]/.test(state.locks[chunk] as string)),
      },
    }),
    scenario: 'apart',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'the copier does not take the chunk lock',
    rules: withRules({
      'a chunk is locked': {
        guard: (state, chunk) => state.phase === 'merging' && state.copying === -1 && state.chunks[chunk] === 't',
        effect: (state, chunk) => {
          state.copying = chunk
        },
      },
    }),
    scenario: 'apart',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'writes that overlap are not kept apart',
    rules: withRules({
      'write begins': {
        guard: (state, writer) =>
          state.writers[writer] === 'r' &&
          mayBegin(state) &&
          chunksOf(state, operationOf(state, writer)).every(
            (chunk) => withoutWriters(state.locks[chunk] as string) === '',
          ),
      },
    }),
    scenario: 'overlap',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'the guest may change its buffer between the write to C and the write to B',
    rules: withRules({
      'write goes on': {
        effect: (state, writer) =>
          nextIs(state, writer, 'mirror') ? takeStep(state, writer, 'XY'.charAt(writer)) : takeStep(state, writer),
      },
    }),
    scenario: 'apart',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'the target is written before the source',
    rules: withPlan((state, writer) => targetFirst(planOfWrite(state, writer))),
    scenario: 'overlap',
    breaks: /^1 reads|^3 copy/,
  },
  {
    mistake: 'after a failure of the source the target is written all the same',
    rules: withRules({
      'source fails before anything landed': {
        effect: (state, writer) => {
          state.chances = { ...state.chances, sourceFailure: 0 }
          state.plans[writer] = (state.plans[writer] as string).replace(/^\w \d,/, '').replace('answer', 'answer-error')
        },
      },
    }),
    scenario: 'source',
    breaks: /^1 reads|^2 to 6 writes|^3 copy/,
  },
  {
    mistake: 'after a failure of the source the chunk stays done',
    rules: withRules({
      'source fails after the bytes landed': {
        effect: (state, writer) => {
          state.chances = { ...state.chances, sourceFailure: 0 }
          takeStep(state, writer)
          state.plans[writer] = 'answer-error'
        },
      },
    }),
    scenario: 'source',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'after a failure of the target the job goes on',
    rules: withRules({
      'target fails before anything landed': {
        effect: (state, writer) => {
          state.chances = { ...state.chances, targetFailure: 0 }
          state.plans[writer] = (state.plans[writer] as string).replace(/^mirror \d,/, '')
        },
      },
    }),
    scenario: 'target',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'after the job was left, writers under way still write to B',
    rules: withRules({
      cancel: {
        effect: (state) => {
          const { plans } = state
          state.chances = { ...state.chances, cancel: 0 }
          leave(state)
          state.plans = plans
        },
      },
    }),
    scenario: 'cancel',
    breaks: /^15 cancel/,
  },
  {
    mistake: 'whoever cancels says that B is whole',
    rules: withRules({
      cancel: {
        effect: (state) => {
          state.chances = { ...state.chances, cancel: 0 }
          leave(state)
          state.mark = put(state.mark, 'w')
        },
      },
    }),
    scenario: 'cancel',
    breaks: /^10 identity|^15 cancel/,
  },
  {
    mistake: 'whoever cancels removes C',
    rules: withRules({
      cancel: {
        effect: (state) => {
          state.chances = { ...state.chances, cancel: 0 }
          leave(state)
          state.entry = put(state.entry, 'n')
        },
      },
    }),
    scenario: 'cancel',
    breaks: /^15 cancel: after the job is left C stays/,
  },
  {
    mistake: 'a discard of a chunk that is done goes to C alone',
    rules: withPlan((state, writer) => {
      const plan = planOfWrite(state, writer)
      return operationOf(state, writer).kind === 'discard' ? plan.filter((step) => !isMirror(step)) : plan
    }),
    scenario: 'discard',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'a discard takes the sector out of C, and only B says zero',
    rules: {
      ...withRules({
        'write goes on': {
          effect: (state, writer) => {
            const { from } = operationOf(state, writer)
            const reveals = nextIs(state, writer, 'C') && state.chunks[chunkOf(state, from)] === 'd'
            takeStep(state, writer)
            if (reveals) state.child[from] = put(state.child[from] as string, SILENT)
          },
        },
      }),
      plan: (state, writer) => targetFirst(planOfWrite(state, writer)),
    },
    scenario: 'discard',
    breaks: /^7 flush/,
  },
  {
    mistake: 'the copy takes a zero mark of C for silence',
    rules: withRules({
      'a chunk is read': {
        effect: (state) => {
          jobRules['a chunk is read'].effect(state)
          state.held = state.held.replaceAll(ZERO, SILENT)
          while (state.held[state.next] === SILENT) state.next++
        },
      },
    }),
    scenario: 'discard',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'the copy writes zeros where C is silent',
    rules: withRules({
      'a chunk is read': {
        effect: (state) => {
          jobRules['a chunk is read'].effect(state)
          state.held = state.held.replaceAll(SILENT, ZERO)
          state.next = 0
        },
      },
    }),
    scenario: 'overlap',
    breaks: /^1 reads|^3 copy/,
  },
  {
    mistake: 'a read of a chunk that is done asks B alone',
    rules: withRules({
      'read begins': {
        effect: (state, sector) => {
          guestRules['read begins'].effect(state, sector)
          if (state.chunks[chunkOf(state, sector)] === 'd') state.reader = `${sector}B`
        },
      },
    }),
    scenario: 'reader',
    breaks: /^1 reads: a read that takes time/,
  },
  {
    mistake: 'a flush of the guest flushes B instead of C once all chunks are done',
    rules: FLUSHES_TARGET,
    scenario: 'alone',
    breaks: /^7 flush/,
  },
  {
    mistake: 'the same, after a discard',
    rules: FLUSHES_TARGET,
    scenario: 'discard',
    breaks: /^13 discard/,
  },
]
