import fs from 'node:fs'
import path from 'node:path'

/** A process that has something open. */
export interface Holder {
  readonly pid: number
  readonly name: string
}

/** So many are named; who wants to know all of them has `fuser`. */
const NAMED = 5

/**
 * The processes that use a file, or something in a folder: open files, working directories, programs that run.
 *
 * Reads the kernel's lists only, never the place itself, and sees what this user may see: root all of them.
 */
export function holdersOf(place: string): Holder[] {
  return numbersIn('/proc')
    .filter((pid) => usedBy(pid).some((used) => used === place || used.startsWith(`${place}${path.sep}`)))
    .map((pid) => ({ pid, name: nameOf(pid) }))
}

/** @example it is in use by 812 (bash) and 940 (less) */
export function describeHolders(holders: readonly Holder[]): string {
  if (holders.length === 0) return 'it is in use'
  const named = holders.slice(0, NAMED).map(({ pid, name }) => `${pid} (${name})`)
  if (holders.length > NAMED) named.push('others')
  return `it is in use by ${named.join(', ').replace(/, ([^,]*)$/, ' and $1')}`
}

/** The processes that were started as this command, with this argument among others. */
export function processesWith(command: string, argument: string): number[] {
  return numbersIn('/proc').filter((pid) => {
    const [name = '', ...given] = (orNothing(() => fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8')) ?? '').split('\0')
    return path.basename(name) === command && given.includes(argument)
  })
}

function usedBy(pid: number): string[] {
  const folder = `/proc/${pid}`
  const links = ['cwd', 'root', 'exe', ...numbersIn(`${folder}/fd`).map((fd) => `fd/${fd}`)]
  return links.map((link) => orNothing(() => fs.readlinkSync(`${folder}/${link}`)) ?? '')
}

function numbersIn(folder: string): number[] {
  const names = orNothing(() => fs.readdirSync(folder)) ?? []
  return names.filter((name) => /^\d+$/.test(name)).map(Number)
}

function nameOf(pid: number): string {
  return orNothing(() => fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim()) ?? 'ended'
}

/** Processes end while we look, and those of others are closed to us. */
function orNothing<T>(look: () => T): T | undefined {
  try {
    return look()
  } catch {
    return undefined
  }
}
