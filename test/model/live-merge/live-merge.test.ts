import { describe, expect, test } from 'vitest'
import { type Exploration, explore, type Model, NEVER_ENDS, STUCK } from './explorer.ts'
import { guestMutants } from './guest-mutants.ts'
import { invariants, stepInvariants } from './invariants.ts'
import { jobMutants } from './job-mutants.ts'
import type { Mutant } from './mutant.ts'
import { modelOf } from './protocol.ts'
import { largeScenarios, scenarios } from './scenarios.ts'
import type { Scenario } from './state.ts'

function told({ states, moves, depth, counterexample }: Exploration, title: string): string {
  const found = counterexample && `\n  ${counterexample.complaint}\n    ${counterexample.trace.join('\n    ')}`
  return `${title}: ${states} states, ${moves} steps, up to ${depth} deep${found ?? ''}`
}

function expectSound(scenario: Scenario): void {
  const result = explore(modelOf(scenario))
  console.info(told(result, scenario.name))
  expect(result.counterexample).toBeUndefined()
}

describe('the protocol of the live merge keeps every invariant in every state', () => {
  test.each(Object.values(scenarios))('$name', expectSound)

  if (process.env.VDISK_MODEL === 'large') test.each(largeScenarios)('$name, $chances', expectSound, 3_600_000)
})

const mutants = [...guestMutants, ...jobMutants]

describe('each mistake is found, by a shortest history', () => {
  const explored = new Map<Mutant, Exploration>()
  const exploreMutant = (mutant: Mutant): Exploration => {
    const result = explored.get(mutant) ?? explore(modelOf(scenarios[mutant.scenario], mutant.rules))
    explored.set(mutant, result)
    return result
  }

  test.each(mutants)('$mistake', (mutant) => {
    const result = exploreMutant(mutant)
    console.info(told(result, mutant.mistake))
    expect(result.counterexample?.complaint).toMatch(mutant.breaks)
  })

  test('every invariant is broken by one of them', () => {
    const names = [...invariants, ...stepInvariants].map(({ name }) => name)
    const broken = mutants.map((mutant) => exploreMutant(mutant).counterexample?.complaint)
    expect(names.filter((name) => !broken.includes(name))).toEqual([])
  })
})

describe('the explorer', () => {
  const counter = (change: Partial<Model<number>>): Model<number> => ({
    initial: 0,
    moves: (n) =>
      [1, 2].filter((by) => n + by <= 5).map((by) => ({ says: () => `+${by}`, to: n + by, trouble: false })),
    key: String,
    complaint: () => undefined,
    complaintOfStep: () => undefined,
    mayRest: (n) => n === 5,
    ...change,
  })

  test('visits each state once, and tells how far they are', () => {
    expect(explore(counter({}))).toEqual({ states: 6, moves: 9, depth: 3, counterexample: undefined })
  })

  test('finds a state by a shortest way', () => {
    const { counterexample } = explore(counter({ complaint: (n) => (n === 4 ? 'four' : undefined) }))
    expect(counterexample).toEqual({ complaint: 'four', trace: ['+2', '+2'] })
  })

  test('finds a step, even between states that are known', () => {
    const { counterexample } = explore(
      counter({ complaintOfStep: (a, b) => (a === 3 && b === 4 ? 'step' : undefined) }),
    )
    expect(counterexample).toEqual({ complaint: 'step', trace: ['+1', '+2', '+1'] })
  })

  test('finds where nothing goes on', () => {
    expect(explore(counter({ mayRest: () => false })).counterexample).toEqual({
      complaint: STUCK,
      trace: ['+1', '+2', '+2'],
    })
  })

  test('finds a circle', () => {
    const round = counter({ moves: (n) => [{ says: () => 'on', to: (n + 1) % 3, trouble: false }] })
    expect(explore(round).counterexample?.complaint).toBe(NEVER_ENDS)
  })

  test('takes no part for the whole', () => {
    expect(() => explore(counter({}), 3)).toThrow('more than 3 states')
  })
})
