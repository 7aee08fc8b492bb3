import { flushed, put } from './cell.ts'
import { CHUNKS, type State } from './state.ts'

/** A write to B by the job or for a guest. Past the end of its disk nothing can be written. */
export function writeTarget(state: State, sector: number, content: string): void {
  if (sector < state.baseEnd) state.base[sector] = put(state.base[sector] as string, content)
}

/** The content of a sector is another one from now on: this is the moment at which a write happens. */
export function becomes(state: State, sector: number, content: string): void {
  state.truth[sector] = put(state.truth[sector] as string, content)
  if (state.promise.length > 0) state.promise[sector] = put(state.promise[sector] as string, content)
  if (state.reader !== '' && Number(state.reader[0]) === sector && !state.readable.includes(content)) {
    state.readable = (state.readable + content).split('').sort().join('')
  }
}

/**
 * The job ends before its end. C has everything, so nothing is lost; chunks that were done begin again in a later run,
 * unless the journal says otherwise. Nobody writes to B from now on: what writers under way still meant for it is dropped.
 */
export function leave(state: State): void {
  state.phase = 'left'
  state.step = 0
  state.chunks = 't'.repeat(CHUNKS)
  state.locks = state.locks.map((holders) => holders.replace('k', ''))
  state.copying = -1
  state.held = ''
  state.next = 0
  state.safe = 0
  state.settling = -1
  state.plans = state.plans.map((plan) => plan.replaceAll(/mirror \d,/g, ''))
}

/** The target failed: the job ends, the guest's write goes on, since C has it. */
export function targetFails(state: State): void {
  state.chances = { ...state.chances, targetFailure: state.chances.targetFailure - 1 }
  leave(state)
}

export function flushBase(state: State): void {
  state.base = state.base.map(flushed)
  state.mark = flushed(state.mark)
}

export function flushChild(state: State): void {
  state.child = state.child.map(flushed)
  state.knows = flushed(state.knows)
}
