import { type Cell, present } from './cell.ts'

/** The disk has this many chunks: the fewest in which one can be copied while the other is not. */
export const CHUNKS = 2

/** What a guest does once. Sectors `from` up to, but not including, `to`. */
export interface Operation {
  readonly kind: 'write' | 'discard'
  readonly from: number
  readonly to: number
}

/** How often something may happen in one history. */
export interface Chances {
  readonly crash: number
  readonly flush: number
  readonly read: number
  /** a write or a flush of B fails */
  readonly targetFailure: number
  /** a write of C fails (of B, once it stands alone) */
  readonly sourceFailure: number
  readonly cancel: number
  /** the job is begun again after it was left */
  readonly again: number
  /** after a crash another program, which knows nothing of merges, writes through the name of the disk */
  readonly stranger: number
  /** B is flushed while the job runs, and the watermark written */
  readonly watermark: number
}

/** Where a history begins, and what may happen in it. Letters stand for contents: lower case b and c, and of writers x and y. */
export interface Scenario {
  readonly name: string
  /** sectors per chunk */
  readonly width: number
  /** what B holds, a letter per sector; shorter than the disk where B is smaller */
  readonly base: string
  /** what C holds, a letter per sector; SILENT where it lets B show */
  readonly child: string
  /** one operation for each writer; two at most */
  readonly writers: readonly Operation[]
  readonly chances: Partial<Chances>
  /** another image is built upon B */
  readonly sibling?: boolean
}

/** In C: the sector is B's affair. */
export const SILENT = '-'
/** Reads as zero: in C an explicit mark that hides B. */
export const ZERO = '0'
/** In B's file behind its disk's end: bytes of long ago that nobody may see. */
export const STALE = '!'

/** In the journal: "B is complete". Otherwise it holds the watermark, a digit: so many chunks need no copy. */
export const COMPLETE = 'R'

/** B's mark: whether its content is its own, is being merged into, or is whole again under its next identity. */
export const Mark = { own: 'o', merging: 'm', whole: 'w' } as const

/**
 * Where the job stands.
 *
 *   plain      the disk is open through its name; no merge runs
 *   preparing  links, marks and sizes are made ready; nothing is copied yet
 *   merging    chunks are copied, guest writes are mirrored
 *   switching  no new operation of the guest begins; the steps that decide
 *   switched   the guest has B alone; C is cleared away
 *   finished   nothing is left to do
 *   left       cancelled or failed: the guest has C over B, and nobody writes to B any more
 *   refused    the job was not begun
 *   down       after a crash: only what the media hold is left
 *   voiding    a stranger has written since: the journal is emptied before the disk is used
 */
export type Phase =
  | 'plain'
  | 'preparing'
  | 'merging'
  | 'switching'
  | 'switched'
  | 'finished'
  | 'left'
  | 'refused'
  | 'down'
  | 'voiding'

/** All there is at one moment: media, memory, and what only the checker knows. Never changed; steps make another one. */
export interface State {
  readonly scenario: Scenario

  // Media. B and C are files with a flush of their own; so are the journal, and the folder with its names.
  /** B, per sector */
  base: Cell[]
  /** sectors of B's disk; changes durably, in one step */
  baseEnd: number
  /** B: see Mark */
  mark: Cell
  /** C, per sector */
  child: Cell[]
  /** C: whether it accepts B under its next identity too: 'y' or 'n' */
  knows: Cell
  journal: Cell
  /** folder: what the name of the disk leads to, 'C' or 'B' */
  link: Cell
  /** folder: whether C is there, 'y' or 'n' */
  entry: Cell
  /** change tracking, durable with each mark: 'y' or 'n' per sector */
  tracked: string
  /** C is not as the journal knows it: told by its identity */
  strange: boolean

  // Memory: lost in a crash.
  phase: Phase
  /** position in the list of steps that belongs to the phase */
  step: number
  /** per chunk: 't' todo, 'c' copying, 'd' done */
  chunks: string
  /** range locks: per chunk the letters of its holders, 'k' the copier, '0' and '1' the writers */
  locks: string[]
  /** the chunk that the copier has locked, or -1 */
  copying: number
  /** what it has read of C, a letter per sector of the chunk; empty before */
  held: string
  /** the sector of the chunk that it writes next */
  next: number
  /** the highest watermark that the medium of the journal may show */
  persisted: number
  /** the watermark that may be written: B is durable up to there, and nobody has written to those chunks since */
  safe: number
  /** a flush of B for the watermark is under way, and what it will make safe; -1: none is */
  settling: number
  /** per writer: the steps it still has to take, first one first, with commas between */
  plans: string[]
  /** per writer: 'r' ready, 'b' busy, 'd' done, 'e' ended with an error, 'x' cut off by a crash */
  writers: string
  /** the guest's flush: '-' none, 's' submitted, 'f' the medium has ended it */
  flush: string
  /** the reader: '' none, else sector and where it looks ('C' or 'B') or, after a colon, what it got */
  reader: string

  // What only the checker knows.
  /** per sector: what a crash may leave to be read, seen from the guest's promises; the last one is what reads give now */
  truth: Cell[]
  /** while a guest's flush is under way: what `truth` becomes at its end */
  promise: Cell[]
  /** what the reader may get: everything the sector has held since the read began */
  readable: string
  /** copies that are still allowed in this run: sectors of C at its start, sectors added to `todo` chunks since, minus sectors copied */
  allowance: number
  /** what is left of the scenario's chances */
  chances: Chances
}

/** Sectors of the disk. */
export function sizeOf(scenario: Scenario): number {
  return CHUNKS * scenario.width
}

export function chunkOf(state: State, sector: number): number {
  return Math.floor(sector / state.scenario.width)
}

/** Sectors of a chunk. */
export function sectorsOf(state: State, chunk: number): number[] {
  const { width } = state.scenario
  return Array.from({ length: width }, (_, i) => chunk * width + i)
}

/** Chunks that an operation touches. */
export function chunksOf(state: State, { from, to }: Operation): number[] {
  return [...new Set(Array.from({ length: to - from }, (_, i) => chunkOf(state, from + i)))]
}

export function initialState(scenario: Scenario): State {
  const size = sizeOf(scenario)
  const none = Array.from({ length: size }, () => '')
  const base = none.map((_, i) => scenario.base[i] ?? STALE)
  const child = scenario.child.split('')
  const state: State = {
    scenario,
    base,
    baseEnd: scenario.base.length,
    mark: Mark.own,
    child,
    knows: 'n',
    journal: '0',
    link: 'C',
    entry: 'y',
    tracked: 'n'.repeat(size),
    strange: false,
    ...forgotten(scenario),
    phase: 'plain',
    writers: 'r'.repeat(scenario.writers.length),
    truth: none,
    chances: {
      crash: 0,
      flush: 0,
      read: 0,
      targetFailure: 0,
      sourceFailure: 0,
      cancel: 0,
      again: 0,
      stranger: 0,
      watermark: 0,
      ...scenario.chances,
    },
  }
  state.truth = none.map((_, sector) => readThroughChain(state, sector))
  return state
}

/** Memory as it is when a process begins. */
export function forgotten(scenario: Scenario) {
  return {
    phase: 'down' as Phase,
    step: 0,
    chunks: 't'.repeat(CHUNKS),
    locks: Array.from({ length: CHUNKS }, () => ''),
    copying: -1,
    held: '',
    next: 0,
    persisted: 0,
    safe: 0,
    settling: -1,
    plans: scenario.writers.map(() => ''),
    flush: '-',
    reader: '',
    promise: [] as Cell[],
    readable: '',
    allowance: 0,
  }
}

/** B alone. */
export function readBase(state: State, sector: number): string {
  return sector < state.baseEnd ? present(state.base[sector] as Cell) : ZERO
}

/** C over B. */
export function readThroughChain(state: State, sector: number): string {
  const own = present(state.child[sector] as Cell)
  return own === SILENT ? readBase(state, sector) : own
}

/** The disk by the name it has, for whoever knows nothing of merges. */
export function readByName(state: State, sector: number): string {
  return present(state.link) === 'C' ? readThroughChain(state, sector) : readBase(state, sector)
}

/** Whether the guest has B alone. */
export function standsAlone(state: State): boolean {
  return state.phase === 'switched' || state.phase === 'finished'
}

/** What the guest reads. */
export function read(state: State, sector: number): string {
  return standsAlone(state) ? readBase(state, sector) : readByName(state, sector)
}

/** Sectors of a chunk for which C speaks. */
export function allocatedIn(state: State, chunk: number): number {
  return sectorsOf(state, chunk).filter((sector) => present(state.child[sector] as Cell) !== SILENT).length
}

/** `text` with one letter replaced. */
export function withLetter(text: string, index: number, letter: string): string {
  return text.slice(0, index) + letter + text.slice(index + 1)
}

/** A copy that a step may change. */
export function copyOf(state: State): State {
  return {
    ...state,
    base: [...state.base],
    child: [...state.child],
    locks: [...state.locks],
    plans: [...state.plans],
    truth: [...state.truth],
    promise: [...state.promise],
  }
}

/** Two states are the same if their keys are. The scenario does not belong to it. */
export function keyOf(state: State): string {
  let key = ''
  for (const name in state) {
    if (name === 'scenario' || name === 'chances') continue
    const value = state[name as keyof State]
    key += typeof value === 'object' ? `${(value as readonly string[]).join()}|` : `${value}|`
  }
  for (const name in state.chances) key += state.chances[name as keyof Chances]
  return key
}
