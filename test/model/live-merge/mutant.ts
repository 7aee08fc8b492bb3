import type { guestRules } from './guest.ts'
import type { jobRules } from './job.ts'
import { protocol } from './protocol.ts'
import type { Protocol, Rule } from './rule.ts'
import type { scenarios } from './scenarios.ts'

/** The protocol with one mistake that somebody might make. */
export interface Mutant {
  readonly mistake: string
  readonly rules: Protocol
  /** where it shows */
  readonly scenario: keyof typeof scenarios
  /** the beginning of the name of the invariant that it breaks */
  readonly breaks: RegExp
}

type RuleName = keyof typeof guestRules | keyof typeof jobRules | 'recovery'

/** The protocol with parts of some of its rules replaced. */
export function withRules(changes: Partial<Record<RuleName, Partial<Rule>>>): Protocol {
  const rules: Record<string, Rule> = { ...protocol.rules }
  for (const [name, change] of Object.entries(changes)) rules[name] = { ...(rules[name] as Rule), ...change }
  return { ...protocol, rules }
}

export function withPlan(plan: Protocol['plan']): Protocol {
  return { ...protocol, plan }
}

/** A list without the first step of that name. */
export function without(list: readonly string[], name: string): readonly string[] {
  return list.filter((_, i) => i !== list.indexOf(name))
}
