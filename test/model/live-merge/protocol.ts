import { crashesOf, forget, recoveryRules } from './crash.ts'
import type { Model, Move } from './explorer.ts'
import { guestRules, planOfWrite } from './guest.ts'
import { complaintAbout, complaintAboutStep } from './invariants.ts'
import { jobRules } from './job.ts'
import type { Protocol, Rule } from './rule.ts'
import { CHUNKS, copyOf, initialState, keyOf, type Scenario, type State } from './state.ts'

/**
 * Merging layer C into the base B below it while the disk is in use: one pass over C, each chunk copied once.
 *
 * The guest reads and writes the disk T, which is C over B, until the switch; then B alone. A chunk that is not copied
 * yet is the business of C alone: a guest's write goes there, and the copy brings it along later. A chunk that is done is
 * kept alike in both. Which of the two holds is decided under the chunk's lock, for the whole write. C has everything
 * until the switch, so a crash, a cancel, a failure of B cost nothing but work.
 *
 * This is the text that the implementation follows; docs/live-merge-protocol.md tells it in words.
 */
export const protocol: Protocol = {
  rules: { ...guestRules, ...jobRules, ...recoveryRules },
  plan: planOfWrite,
  preparation: ['teach C', 'flush C', 'mark B', 'flush B', 'grow B'],
  switching: ['drain', 'flush B', 'flush C', 'record', 'flush journal', 'repoint', 'flush folder', 'resume'],
  clearing: ['remove C', 'flush folder', 'unmark B', 'flush B', 'empty journal', 'flush journal'],
  voiding: ['empty journal', 'flush journal', 'accept C'],
  forget,
}

/** Everything that may happen next. */
export function* movesOf(state: State, rules: Protocol): Generator<Move<State>> {
  for (const rule of Object.values(rules.rules)) {
    const count = timesOf(rule, state)
    for (let n = 0; n < count; n++) {
      if (!rule.guard(state, n, rules)) continue
      const to = copyOf(state)
      rule.effect(to, n, rules)
      yield { says: () => rule.says(state, n, rules), to, trouble: rule.by === 'trouble' }
    }
  }
  yield* crashesOf(state, rules)
}

function timesOf({ each }: Rule, state: State): number {
  if (each === undefined) return 1
  return { writer: state.scenario.writers.length, chunk: CHUNKS, sector: state.base.length }[each]
}

/** The protocol, or a mutant of it, as something to be explored. */
export function modelOf(scenario: Scenario, rules: Protocol = protocol): Model<State> {
  return {
    initial: initialState(scenario),
    moves: (state) => movesOf(state, rules),
    key: keyOf,
    complaint: complaintAbout,
    complaintOfStep: complaintAboutStep,
    mayRest: ({ phase, writers, flush, reader }) =>
      ['finished', 'left', 'refused'].includes(phase) && !/[rb]/.test(writers) && flush === '-' && reader === '',
  }
}
