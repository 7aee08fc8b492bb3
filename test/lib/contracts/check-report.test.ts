import { expect, test } from 'vitest'
import { CheckReport, type Severity } from '../../../lib/contracts/check-report.ts'

test('a thousand oddities do not hide what is wrong', () => {
  const report = new CheckReport()
  const add = (severity: Severity): void => report.add({ code: 'ANY', severity, structure: 'any', message: 'any' })
  for (let i = 0; i < 5000; i++) add('warning')
  for (let i = 0; i < 1200; i++) add('leak')
  add('error')
  expect(report.counts).toEqual({ warning: 5000, leak: 1200, error: 1 })
  const kept = (severity: Severity): number => report.findings.filter((one) => one.severity === severity).length
  expect([kept('warning'), kept('leak'), kept('error')]).toEqual([1000, 1000, 1])
})

test('nor do a thousand errors of one kind hide one of another', () => {
  const report = new CheckReport()
  for (let at = 0; at < 5000; at++) report.add({ code: 'MANY', severity: 'error', structure: 'a', at, message: '' })
  for (const code of ['LATE', 'LATE']) report.add({ code, severity: 'error', structure: 'b', message: '' })
  expect(report.counts.error).toBe(5002)
  expect(report.findings.map(({ code }) => code).filter((code) => code === 'LATE')).toEqual(['LATE'])
  expect(report.findings).toHaveLength(1001)
})

test('nor hides what is said of one kind as a warning that it is an error elsewhere', () => {
  const report = new CheckReport()
  const add = (code: string, severity: Severity): void => report.add({ code, severity, structure: 'a', message: '' })
  add('KIND', 'warning')
  for (let i = 0; i < 1000; i++) add('OTHER', 'error')
  add('KIND', 'error')
  expect(report.findings.filter(({ code }) => code === 'KIND').map(({ severity }) => severity)).toEqual([
    'warning',
    'error',
  ])
})
