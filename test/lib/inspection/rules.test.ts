import { describe, expect, test } from 'vitest'
import { CONCERNS, type ConcernCode } from '../../../lib/index.ts'
import { codesIn, judge, type Rule, verdictOf } from '../../support/judging.ts'
import { appleRules } from './rules/apple.ts'
import { diskRules } from './rules/disks.ts'
import { emulatorRules } from './rules/emulators.ts'
import { policyRules } from './rules/policy.ts'
import { qcow2Rules } from './rules/qcow2.ts'
import { vdiRules } from './rules/vdi.ts'
import { vhdRules } from './rules/vhd.ts'
import { vhdxRules } from './rules/vhdx.ts'
import { vmdkRules } from './rules/vmdk.ts'

const ALL: Readonly<Record<string, readonly Rule[]>> = {
  policy: policyRules,
  qcow2: qcow2Rules,
  vhdx: vhdxRules,
  disks: diskRules,
  vhd: vhdRules,
  vmdk: vmdkRules,
  vdi: vdiRules,
  emulators: emulatorRules,
  apple: appleRules,
}

describe.each(Object.entries(ALL))('%s: each rule by an image that breaks it alone', (_, rules) => {
  test.each(rules.map((rule) => [rule.title, rule] as const))('%s', (_title, { file, options, finds }) => {
    const judgement = judge(file(), options)
    expect(codesIn(judgement), JSON.stringify(judgement.findings, undefined, 1)).toEqual([...finds].sort())
    expect(judgement.verdict).toBe(verdictOf(finds))
  })
})

test('every kind of concern has a rule that finds it', () => {
  const found = new Set(Object.values(ALL).flatMap((rules) => rules.flatMap(({ finds }) => finds)))
  const never = (Object.keys(CONCERNS) as ConcernCode[]).filter((code) => !found.has(code))
  expect(never).toEqual([])
})
