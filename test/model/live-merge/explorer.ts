/** One step from a state to the next, in words. */
export interface Move<S> {
  says(): string
  readonly to: S
  /** what happens to the system and not by it: nothing may depend on that it comes */
  readonly trouble: boolean
}

/** A system with finitely many states. States are never changed. */
export interface Model<S> {
  readonly initial: S
  moves(state: S): Iterable<Move<S>>
  /** two states with one key are one state */
  key(state: S): string
  /** what is wrong with a state; undefined: nothing */
  complaint(state: S): string | undefined
  /** what is wrong with a step */
  complaintOfStep(from: S, to: S): string | undefined
  /** whether the system may rest here for ever */
  mayRest(state: S): boolean
}

export interface Counterexample {
  readonly complaint: string
  /** the steps from the beginning, in words: as few as possible */
  readonly trace: readonly string[]
}

export interface Exploration {
  readonly states: number
  readonly moves: number
  /** steps of the longest way from the beginning to a state by a shortest way */
  readonly depth: number
  readonly counterexample: Counterexample | undefined
}

export const NEVER_ENDS = 'the system can go round in a circle for ever'
export const STUCK = 'nothing can happen any more, but not all is done'

/**
 * Visits every state that can be reached, breadth first, so that the first state with a complaint has a shortest way.
 * When all are right, it also makes sure that every history comes to an end where the system may rest.
 *
 * @param limit states to visit at most; a model that has more is an error, so that nobody takes a part for the whole
 */
export function explore<S>(model: Model<S>, limit = 2_000_000): Exploration {
  const numbers = new Map<string, number>([[model.key(model.initial), 0]])
  const cameFrom: number[] = [-1]
  const saying: string[] = ['']
  const edges: number[][] = []
  let layer: { state: S; number: number }[] = [{ state: model.initial, number: 0 }]
  let depth = 0
  let moves = 0

  const found = (complaint: string, number: number, last?: string): Exploration => {
    const trace = last === undefined ? [] : [last]
    for (let at = number; at > 0; at = cameFrom[at] as number) trace.unshift(saying[at] as string)
    return { states: numbers.size, moves, depth, counterexample: { complaint, trace } }
  }

  const wrong = model.complaint(model.initial)
  if (wrong !== undefined) return found(wrong, 0)
  while (layer.length > 0) {
    const following: { state: S; number: number }[] = []
    for (const { state, number } of layer) {
      const targets: number[] = []
      let goesOn = false
      for (const move of model.moves(state)) {
        moves++
        goesOn ||= !move.trouble
        const wrongStep = model.complaintOfStep(state, move.to)
        if (wrongStep !== undefined) return found(wrongStep, number, move.says())
        const key = model.key(move.to)
        let target = numbers.get(key)
        if (target === undefined) {
          target = numbers.size
          if (target >= limit) throw new Error(`more than ${limit} states`)
          numbers.set(key, target)
          cameFrom.push(number)
          saying.push(move.says())
          const wrongState = model.complaint(move.to)
          if (wrongState !== undefined) return found(wrongState, target)
          following.push({ state: move.to, number: target })
        }
        targets.push(target)
      }
      if (!goesOn && !model.mayRest(state)) return found(STUCK, number)
      edges[number] = targets
    }
    if (following.length > 0) depth++
    layer = following
  }
  const circle = onCircle(edges)
  return circle === undefined
    ? { states: numbers.size, moves, depth, counterexample: undefined }
    : found(NEVER_ENDS, circle)
}

/** A state from which a way leads back to it, or undefined. Takes states away that nothing leads to, until none is left. */
function onCircle(edges: readonly (readonly number[])[]): number | undefined {
  const leadingHere = new Uint32Array(edges.length)
  for (const targets of edges) for (const target of targets) leadingHere[target] = (leadingHere[target] as number) + 1
  const free = leadingHere[0] === 0 ? [0] : []
  let taken = 0
  for (let at = free.pop(); at !== undefined; at = free.pop()) {
    taken++
    for (const target of edges[at] as readonly number[]) {
      leadingHere[target] = (leadingHere[target] as number) - 1
      if (leadingHere[target] === 0) free.push(target)
    }
  }
  return taken === edges.length ? undefined : leadingHere.findIndex((count) => count > 0)
}
