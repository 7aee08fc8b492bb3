import { combinations } from './cell.ts'
import type { Move } from './explorer.ts'
import type { Protocol, Rule } from './rule.ts'
import { COMPLETE, copyOf, forgotten, readByName, type State } from './state.ts'

/** Every state that a crash may leave: each cell of each medium holds one of its versions, memory nothing. */
export function* crashesOf(state: State, protocol: Protocol): Generator<Move<State>> {
  if (state.chances.crash === 0 || state.phase === 'down') return
  const { base, child, mark, knows, journal, link, entry } = state
  const size = base.length
  for (const kept of combinations([...base, ...child, mark, knows, journal, link, entry])) {
    const next = copyOf(state)
    protocol.forget(next)
    next.base = kept.slice(0, size)
    next.child = kept.slice(size, 2 * size)
    ;[next.mark, next.knows, next.journal, next.link, next.entry] = kept.slice(2 * size) as [
      string,
      string,
      string,
      string,
      string,
    ]
    next.writers = state.writers.replaceAll('b', 'x')
    next.chances = { ...state.chances, crash: state.chances.crash - 1 }
    // What is read after a crash is what the disk holds from then on.
    next.truth = base.map((_, sector) => readByName(next, sector))
    yield { says: () => `a crash leaves ${describe(next)}`, to: next, trouble: true }
  }
}

/** Memory is gone. */
export function forget(state: State): void {
  Object.assign(state, forgotten(state.scenario))
}

function describe({ base, child, mark, journal, link, entry }: State): string {
  const rest = `mark ${mark}, journal ${journal}, name to ${link}${entry === 'y' ? '' : ', C removed'}`
  return `B ${base.join('')}, C ${child.join('')}, ${rest}`
}

export const recoveryRules = {
  recovery: {
    by: 'job',
    says: (state) => (isVoid(state) ? 'recovery: the journal is of another C' : 'recovery: the media are read'),
    guard: (state) => state.phase === 'down',
    effect: (state, _, protocol) => {
      if (isVoid(state)) {
        state.phase = 'voiding'
      } else if (state.journal === COMPLETE) {
        // B is whole. What may or may not have been done after the record is done again.
        state.phase = 'switching'
        state.step = protocol.switching.indexOf('repoint')
      } else if (state.link === 'B') {
        state.phase = 'finished'
      } else {
        state.phase = 'plain'
        state.persisted = Number(state.journal)
      }
    },
  },
  'a stranger writes': {
    by: 'trouble',
    each: 'sector',
    says: ({ link }, sector) => `another program writes sector ${sector} of ${link}, and closes it`,
    guard: (state) => state.phase === 'down' && state.chances.stranger > 0,
    effect: (state, sector) => {
      state.chances = { ...state.chances, stranger: state.chances.stranger - 1 }
      const file = state.link === 'C' ? state.child : state.base
      file[sector] = 's'
      state.truth[sector] = 's'
      state.strange = state.link === 'C'
    },
  },
} satisfies Record<string, Rule>

/** The journal speaks of a C that is not this one. Where the name leads to B, C does not matter any more. */
function isVoid(state: State): boolean {
  return state.strange && state.link === 'C'
}
