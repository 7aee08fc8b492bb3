import { flushBase } from './effects.ts'
import { guestRules, operationOf, planOfWrite } from './guest.ts'
import { doneInOrder, jobRules } from './job.ts'
import { type Mutant, without, withPlan, withRules } from './mutant.ts'
import { protocol } from './protocol.ts'
import type { Rule } from './rule.ts'
import { chunkOf, chunksOf, sectorsOf, withLetter } from './state.ts'

const begins: Rule = guestRules['write begins']

/** Mistakes in the switch, the journal, recovery, marks and sizes. */
export const jobMutants: readonly Mutant[] = [
  {
    mistake: 'the switch does not wait for what is under way',
    rules: { ...protocol, switching: without(protocol.switching, 'drain') },
    scenario: 'apart',
    breaks: /^1 reads|^2 to 6 writes|^8 switch/,
  },
  {
    mistake: 'the switch begins when one chunk is done',
    rules: {
      ...withRules({
        'switch begins': { guard: (state) => state.phase === 'merging' && state.chunks.includes('d') },
        'back to copying': { guard: () => false },
      }),
      switching: without(protocol.switching, 'drain'),
    },
    scenario: 'reader',
    breaks: /^1 reads: the disk reads/,
  },
  {
    mistake: 'B calls itself whole before the name leads to it',
    rules: {
      ...protocol,
      switching: ['drain', 'flush B', 'flush C', 'record', 'unmark B', 'flush B', ...protocol.switching.slice(4)],
    },
    scenario: 'overlap',
    breaks: /^10 identity: B calls itself whole/,
  },
  {
    mistake: 'B is not flushed before the record',
    rules: { ...protocol, switching: without(protocol.switching, 'flush B') },
    scenario: 'overlap',
    breaks: /^8 switch: once the record/,
  },
  {
    mistake: 'the record is written before C is flushed',
    rules: {
      ...protocol,
      switching: ['drain', 'flush B', 'record', 'flush journal', 'flush C', 'repoint', 'flush folder', 'resume'],
    },
    scenario: 'overlap',
    breaks: /^8 switch: once the record/,
  },
  {
    mistake: 'the name leads to B before the record is durable',
    rules: {
      ...protocol,
      switching: ['drain', 'flush B', 'flush C', 'repoint', 'flush folder', 'record', 'flush journal', 'resume'],
    },
    scenario: 'overlap',
    breaks: /^8 switch: a C that is left over/,
  },
  {
    mistake: 'C is removed before the folder is flushed',
    rules: {
      ...protocol,
      switching: [...without(protocol.switching.slice(0, -1), 'flush folder'), 'remove C', 'flush folder', 'resume'],
      clearing: protocol.clearing.slice(1),
    },
    scenario: 'overlap',
    breaks: /^8 switch: the name of the disk leads to a file/,
  },
  {
    mistake: 'the guest goes on before the folder is flushed',
    rules: {
      ...protocol,
      switching: without(protocol.switching, 'flush folder'),
      clearing: ['flush folder', ...protocol.clearing],
    },
    scenario: 'alone',
    breaks: /^7 flush|^8 switch: once the record/,
  },
  {
    mistake: 'the record is removed before it is durable that C is gone',
    rules: {
      ...protocol,
      clearing: ['remove C', 'unmark B', 'flush B', 'empty journal', 'flush journal', 'flush folder'],
    },
    scenario: 'overlap',
    breaks: /^8 switch: a C that is left over/,
  },
  {
    mistake: 'the watermark is written without a flush of B',
    rules: withRules({
      'flush for the watermark begins': {
        effect: (state) => {
          state.settling = doneInOrder(state)
          state.chances = { ...state.chances, watermark: 0 }
        },
      },
    }),
    scenario: 'watermark',
    breaks: /^9 watermark/,
  },
  {
    mistake: 'the watermark is written without a flush of C',
    rules: withRules({
      'flush for the watermark begins': {
        effect: (state) => {
          state.settling = doneInOrder(state)
          flushBase(state)
          state.chances = { ...state.chances, watermark: 0 }
        },
      },
    }),
    scenario: 'watermark',
    breaks: /^9 watermark/,
  },
  {
    mistake: 'what the flush has made safe is judged at its end',
    rules: withRules({
      'flush for the watermark ends': {
        effect: (state) => {
          state.safe = doneInOrder(state)
          state.settling = -1
        },
      },
    }),
    scenario: 'watermark',
    breaks: /^9 watermark/,
  },
  {
    mistake: 'a write to a chunk below the watermark leaves the watermark as it is',
    rules: withPlan((state, writer) => planOfWrite({ ...state, persisted: 0 }, writer)),
    scenario: 'watermark',
    breaks: /^9 watermark/,
  },
  {
    mistake: 'the watermark is lowered, but the journal not flushed before the write',
    rules: withPlan((state, writer) => planOfWrite(state, writer).filter((step) => step !== 'flush-journal')),
    scenario: 'watermark',
    breaks: /^9 watermark/,
  },
  {
    mistake: 'others take the watermark as lowered before that is durable',
    rules: withRules({
      'write begins': {
        effect: (state, writer, rules) => {
          begins.effect(state, writer, rules)
          state.persisted = Math.min(state.persisted, chunkOf(state, operationOf(state, writer).from))
        },
      },
    }),
    scenario: 'watermark',
    breaks: /^9 watermark/,
  },
  {
    mistake: 'recovery takes as done what was done in memory',
    rules: {
      ...withRules({
        'merge begins': {
          effect: (state) => {
            const remembered = state.chunks.replaceAll('c', 't')
            jobRules['merge begins'].effect(state)
            state.chunks = remembered
          },
        },
      }),
      forget: (state) => {
        const { chunks } = state
        protocol.forget(state)
        state.chunks = chunks
      },
    },
    scenario: 'overlap',
    breaks: /^2 to 6 writes/,
  },
  {
    mistake: 'recovery believes a journal that speaks of another C',
    rules: withRules({
      recovery: {
        effect: (state, n, rules) => {
          state.strange = false
          ;(protocol.rules.recovery as Rule).effect(state, n, rules)
        },
      },
    }),
    scenario: 'stranger',
    breaks: /^1 reads|^2 to 6 writes|^8 switch: once the record|^9 watermark/,
  },
  {
    mistake: 'B is not marked durably before the first copy',
    rules: { ...protocol, preparation: without(protocol.preparation, 'flush B') },
    scenario: 'overlap',
    breaks: /^10 identity: B is marked/,
  },
  {
    mistake: 'B takes its next identity before C knows it',
    rules: { ...protocol, preparation: ['mark B', 'flush B', 'teach C', 'flush C', 'grow B'] },
    scenario: 'overlap',
    breaks: /^10 identity: C accepts B/,
  },
  {
    mistake: 'another image is built upon B, and the merge begins all the same',
    rules: withRules({ 'merge begins': { guard: (state) => state.phase === 'plain' } }),
    scenario: 'sibling',
    breaks: /^10 identity: where another image/,
  },
  {
    mistake: 'a write is marked as a change only when it is done',
    rules: withRules({
      'write begins': {
        effect: (state, writer, rules) => {
          const { tracked } = state
          begins.effect(state, writer, rules)
          state.tracked = tracked
        },
      },
    }),
    scenario: 'apart',
    breaks: /^11 tracking: what the guest changed/,
  },
  {
    mistake: 'a copy is marked as a change',
    rules: withRules({
      'a sector is copied': {
        effect: (state) => {
          const sector = (sectorsOf(state, state.copying)[0] as number) + state.next
          state.tracked = withLetter(state.tracked, sector, 'y')
          jobRules['a sector is copied'].effect(state)
        },
      },
    }),
    scenario: 'apart',
    breaks: /^11 tracking: a copy marks nothing/,
  },
  {
    mistake: 'B does not grow',
    rules: { ...protocol, preparation: without(protocol.preparation, 'grow B') },
    scenario: 'growth',
    breaks: /^1 reads|^2 to 6 writes|^12 size/,
  },
  {
    mistake: 'B grows only when there is something to write behind its end',
    rules: { ...protocol, preparation: without(protocol.preparation, 'grow B') },
    scenario: 'silent',
    breaks: /^12 size/,
  },
  {
    mistake: 'what lay behind the end of B shows when it grows',
    rules: withRules({
      'next of its list': {
        effect: (state, n, rules) => {
          const { baseEnd, phase, step } = state
          const base = [...state.base]
          jobRules['next of its list'].effect(state, n, rules)
          if (phase === 'preparing' && rules.preparation[step] === 'grow B') {
            state.base = base.map((cell, sector) => (sector < baseEnd ? (state.base[sector] as string) : cell))
          }
        },
      },
    }),
    scenario: 'growth',
    breaks: /^1 reads|^3 copy/,
  },
  {
    mistake: 'a write to a chunk that is done goes to C, and the chunk is copied once more',
    rules: withRules({
      'write begins': {
        effect: (state, writer, rules) => {
          for (const chunk of chunksOf(state, operationOf(state, writer))) {
            if (state.chunks[chunk] === 'd') state.chunks = withLetter(state.chunks, chunk, 't')
          }
          begins.effect(state, writer, rules)
        },
      },
    }),
    scenario: 'apart',
    breaks: /^14 progress/,
  },
  {
    mistake: 'a chunk whose source failed is never copied again',
    rules: withRules({ 'back to copying': { guard: () => false } }),
    scenario: 'source',
    breaks: /^nothing can happen any more/,
  },
]
