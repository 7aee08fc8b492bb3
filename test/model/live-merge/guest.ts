import { flushed, present, put } from './cell.ts'
import { becomes, flushBase, flushChild, targetFails, writeTarget } from './effects.ts'
import type { Rule } from './rule.ts'
import {
  allocatedIn,
  chunkOf,
  chunksOf,
  type Operation,
  type Phase,
  readBase,
  SILENT,
  type State,
  standsAlone,
  withLetter,
  ZERO,
} from './state.ts'

/** Phases in which the guest may begin something; in the others it waits. */
const OPEN: readonly Phase[] = ['plain', 'preparing', 'merging', 'switched', 'finished', 'left', 'refused']

export function operationOf(state: State, writer: number): Operation {
  return state.scenario.writers[writer] as Operation
}

/** What a writer writes: a copy of the guest's buffer, taken once, before its first write. */
function contentOf(state: State, writer: number): string {
  return operationOf(state, writer).kind === 'discard' ? ZERO : 'xy'.charAt(writer)
}

/**
 * The steps of one guest write, chosen in the moment in which it gets its locks, and not again.
 *
 * A discard takes the same steps: in C it leaves an explicit mark, since B may hold data there; in B it is zeros.
 * A chunk that the journal's medium may count as done loses that before anything is written to it: from here until the
 * next flush of B a crash could keep the write in C and lose it in B.
 */
export function planOfWrite(state: State, writer: number): readonly string[] {
  const { from, to } = operationOf(state, writer)
  const sectors = Array.from({ length: to - from }, (_, i) => from + i)
  if (standsAlone(state)) return [...sectors.map((sector) => `B ${sector}`), 'answer']
  const lowest = chunkOf(state, from)
  const withdraw = state.persisted > lowest ? [`lower ${lowest}`, 'flush-journal'] : []
  const mirrored = sectors.filter((sector) => state.chunks[chunkOf(state, sector)] === 'd')
  return [
    ...withdraw,
    ...sectors.map((sector) => `C ${sector}`),
    ...mirrored.map((sector) => `mirror ${sector}`),
    'answer',
  ]
}

export function locksFree(state: State, writer: number): boolean {
  return chunksOf(state, operationOf(state, writer)).every((chunk) => state.locks[chunk] === '')
}

export function lock(state: State, writer: number): void {
  for (const chunk of chunksOf(state, operationOf(state, writer))) state.locks[chunk] += String(writer)
}

function unlock(state: State, writer: number): void {
  state.locks = state.locks.map((holders) => holders.replace(String(writer), ''))
}

/** Writers that do the same are alike: the one that begins first is called the first. */
function isItsTurn(state: State, writer: number): boolean {
  const [first, second] = state.scenario.writers
  return writer === 0 || state.writers[0] !== 'r' || JSON.stringify(first) !== JSON.stringify(second)
}

export function mayBegin(state: State): boolean {
  return OPEN.includes(state.phase)
}

function nextOf(state: State, writer: number): { step: string; place: number } {
  const [step = '', place = ''] = (state.plans[writer] as string).split(',', 1)[0]?.split(' ') ?? []
  return { step, place: Number(place) }
}

function advance(state: State, writer: number): void {
  const plan = state.plans[writer] as string
  state.plans[writer] = plan.includes(',') ? plan.slice(plan.indexOf(',') + 1) : ''
}

/** Takes a writer's next step. @param content what is written, where anything is */
export function takeStep(state: State, writer: number, content = contentOf(state, writer)): void {
  const { step, place } = nextOf(state, writer)
  advance(state, writer)
  if (step === 'lower') {
    state.journal = put(state.journal, String(Math.min(Number(present(state.journal)), place)))
  } else if (step === 'flush-journal') {
    state.journal = flushed(state.journal)
    // Only now: until here the medium may show the old one, and other writers must not rely on this one.
    state.persisted = Number(state.journal)
  } else if (step === 'C') {
    const added = present(state.child[place] as string) === SILENT && state.chunks[chunkOf(state, place)] === 't'
    if (added) state.allowance++
    state.child[place] = put(state.child[place] as string, content)
    becomes(state, place, content)
  } else if (step === 'B') {
    state.base[place] = put(state.base[place] as string, content)
    becomes(state, place, content)
  } else if (step === 'mirror') {
    writeTarget(state, place, content)
  } else {
    unlock(state, writer)
    state.writers = withLetter(state.writers, writer, step === 'answer' ? 'd' : 'e')
  }
}

function isNext(state: State, writer: number, ...steps: string[]): boolean {
  return state.writers[writer] === 'b' && steps.includes(nextOf(state, writer).step)
}

/** The source failed. What C holds now is not known, but B can be made the same again: by copying the chunk. */
function sourceFails(state: State, writer: number): void {
  state.chances = { ...state.chances, sourceFailure: state.chances.sourceFailure - 1 }
  state.plans[writer] = 'answer-error'
  for (const chunk of chunksOf(state, operationOf(state, writer))) {
    if (state.chunks[chunk] !== 'd') continue
    state.chunks = withLetter(state.chunks, chunk, 't')
    state.allowance += allocatedIn(state, chunk)
  }
}

const WORDS: Readonly<Record<string, string>> = {
  lower: 'lowers the watermark in the journal to',
  'flush-journal': 'flushes the journal',
  C: 'writes to C, sector',
  B: 'writes to B, sector',
  mirror: 'writes to B too, sector',
  answer: 'gets its answer, and gives its locks back',
  'answer-error': 'is told that it failed, and gives its locks back',
  lock: 'waits for its locks and takes them',
}

function wordsOf(state: State, writer: number): string {
  const { step, place } = nextOf(state, writer)
  return `writer ${writer + 1} ${WORDS[step]}${Number.isNaN(place) || step.includes('answer') || step === 'flush-journal' ? '' : ` ${place}`}`
}

export const guestRules = {
  'write begins': {
    by: 'guest',
    each: 'writer',
    says: (state, writer) => {
      const { kind, from, to } = operationOf(state, writer)
      return `writer ${writer + 1} locks its chunks: a ${kind} of sectors ${from}..${to - 1}`
    },
    guard: (state, writer) =>
      state.writers[writer] === 'r' && isItsTurn(state, writer) && mayBegin(state) && locksFree(state, writer),
    effect: (state, writer, protocol) => {
      const { from, to } = operationOf(state, writer)
      lock(state, writer)
      state.plans[writer] = protocol.plan(state, writer).join()
      state.writers = withLetter(state.writers, writer, 'b')
      // What a flush of B under way has made safe, it has made safe without this write.
      const lowest = chunkOf(state, from)
      state.safe = Math.min(state.safe, lowest)
      if (state.settling > lowest) state.settling = lowest
      for (let sector = from; sector < to; sector++) state.tracked = withLetter(state.tracked, sector, 'y')
    },
  },
  'write goes on': {
    by: 'guest',
    each: 'writer',
    says: wordsOf,
    guard: (state, writer) => state.writers[writer] === 'b',
    effect: (state, writer) => takeStep(state, writer),
  },
  'source fails before anything landed': {
    by: 'trouble',
    each: 'writer',
    says: (state, writer) => `${wordsOf(state, writer)}: that fails, and nothing was written`,
    guard: (state, writer) => state.chances.sourceFailure > 0 && isNext(state, writer, 'C', 'B'),
    effect: (state, writer) => sourceFails(state, writer),
  },
  'source fails after the bytes landed': {
    by: 'trouble',
    each: 'writer',
    says: (state, writer) => `${wordsOf(state, writer)}: that fails, but the bytes are there`,
    guard: (state, writer) => state.chances.sourceFailure > 0 && isNext(state, writer, 'C', 'B'),
    effect: (state, writer) => {
      takeStep(state, writer)
      sourceFails(state, writer)
    },
  },
  'target fails before anything landed': {
    by: 'trouble',
    each: 'writer',
    says: (state, writer) => `${wordsOf(state, writer)}: that fails, and the job ends`,
    guard: (state, writer) => state.chances.targetFailure > 0 && isNext(state, writer, 'mirror'),
    effect: (state, writer) => {
      advance(state, writer)
      targetFails(state)
    },
  },
  'target fails after the bytes landed': {
    by: 'trouble',
    each: 'writer',
    says: (state, writer) => `${wordsOf(state, writer)}: that fails, but the bytes are there; the job ends`,
    guard: (state, writer) => state.chances.targetFailure > 0 && isNext(state, writer, 'mirror'),
    effect: (state, writer) => {
      takeStep(state, writer)
      targetFails(state)
    },
  },
  'flush begins': {
    by: 'guest',
    says: () => 'the guest asks for a flush',
    guard: (state) => state.flush === '-' && state.chances.flush > 0 && mayBegin(state),
    effect: (state) => {
      state.flush = 's'
      state.promise = state.truth.map(present)
      state.chances = { ...state.chances, flush: state.chances.flush - 1 }
    },
  },
  'flush of the source': {
    by: 'guest',
    says: (state) => `the guest's flush flushes ${standsAlone(state) ? 'B' : 'C'}`,
    guard: (state) => state.flush === 's',
    effect: (state) => {
      if (standsAlone(state)) flushBase(state)
      else flushChild(state)
      state.flush = 'f'
    },
  },
  'flush ends': {
    by: 'guest',
    says: () => 'the guest is told that the flush is done',
    guard: (state) => state.flush === 'f',
    effect: (state) => {
      state.truth = state.promise
      state.promise = []
      state.flush = '-'
    },
  },
  'read begins': {
    by: 'guest',
    each: 'sector',
    says: (state, sector) => `a reader looks where sector ${sector} is: in ${placeOf(state, sector)}`,
    guard: (state) => state.reader === '' && state.chances.read > 0 && mayBegin(state),
    effect: (state, sector) => {
      state.reader = `${sector}${placeOf(state, sector)}`
      state.readable = present(state.truth[sector] as string)
      state.chances = { ...state.chances, read: state.chances.read - 1 }
    },
  },
  'read goes on': {
    by: 'guest',
    says: (state) => `the reader takes what ${state.reader[1]} has there`,
    guard: (state) => /^\d[BC]$/.test(state.reader),
    effect: (state) => {
      const sector = Number(state.reader[0])
      const found = state.reader[1] === 'B' ? readBase(state, sector) : present(state.child[sector] as string)
      state.reader = `${sector}:${found}`
    },
  },
  'read ends': {
    by: 'guest',
    says: () => 'the reader is done',
    guard: (state) => state.reader.includes(':'),
    effect: (state) => {
      state.reader = ''
      state.readable = ''
    },
  },
} satisfies Record<string, Rule>

function placeOf(state: State, sector: number): 'B' | 'C' {
  return standsAlone(state) || present(state.child[sector] as string) === SILENT ? 'B' : 'C'
}
