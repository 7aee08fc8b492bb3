import v8 from 'node:v8'
import vm from 'node:vm'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import { isVdiskError, type VdiskError } from '../../lib/errors.ts'
import { qcow2 } from '../../lib/formats/qcow2/driver.ts'
import type { Qcow2Layer } from '../../lib/formats/qcow2/layer.ts'
import { promised } from '../../lib/io/io.ts'

/** Bytes of metadata that opening a file may take, whatever the file says. */
export const BUDGET = 64 << 20
/** What else moves in a process while something is measured. */
export const SLACK = 8 << 20

/** The VdiskError that some work ends with; undefined if it succeeds. What is no VdiskError is thrown on: it fails the test. */
export function failureOf(work: () => unknown): VdiskError | undefined {
  try {
    work()
  } catch (error) {
    if (isVdiskError(error)) return error
    throw error
  }
  return undefined
}

/** The same for work that waits. */
export async function failure(work: () => Promise<unknown>): Promise<VdiskError | undefined> {
  try {
    await work()
  } catch (error) {
    if (isVdiskError(error)) return error
    throw error
  }
  return undefined
}

/** Code and place in one line, for tables of expectations; 'fine' where there is no error. */
export function placeOf(error: VdiskError | undefined): string {
  if (!error) return 'fine'
  const { structure, index, at } = error.where
  return [error.code, structure, index === undefined ? undefined : `entry ${index}`, at === undefined ? '' : `at ${at}`]
    .filter(Boolean)
    .join(', ')
}

v8.setFlagsFromString('--expose-gc')
const collect = vm.runInNewContext('gc') as () => void

/** Bytes of memory that some work keeps, or took at once for buffers: small things that it let go at once do not count. */
export function memoryOf(work: () => unknown): number {
  collect()
  const before = process.memoryUsage()
  const kept = work()
  const { external } = process.memoryUsage()
  collect()
  const { heapUsed } = process.memoryUsage()
  void kept
  return heapUsed - before.heapUsed + external - before.external
}

/** Codes that a check of this layer finds, each once. */
export async function findingsOf(layer: Qcow2Layer): Promise<string[]> {
  const report = new CheckReport()
  await promised(qcow2.check(layer, report))
  return [...new Set(report.findings.map(({ code }) => code))].sort()
}
