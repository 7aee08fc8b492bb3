import { VdiskError } from '../errors.ts'
import type { Files } from './files.ts'

/**
 * Removes the files that a job has made before it failed, as far as that can be.
 *
 * @param failure why it failed; undefined: it was left before its end
 * @throws the failure, with a word on what could not be removed
 */
export function removeLeftovers(files: Files, names: readonly string[], failure: unknown): void {
  const left = names.filter((name) => !isRemoved(files, name))
  if (failure instanceof VdiskError && left.length > 0) {
    const { code, message, where, advice } = failure
    const remove = `What was made is not complete, and could not be removed: remove ${left.join(', ')}.`
    throw new VdiskError(code, { message, where, advice: advice ? `${advice} ${remove}` : remove, cause: failure })
  }
  if (failure !== undefined) throw failure
}

function isRemoved(files: Files, name: string): boolean {
  try {
    files.remove(name, { missing: 'allow' })
    return true
  } catch {
    return false
  }
}
