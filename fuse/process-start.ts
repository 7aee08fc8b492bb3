import { spawnSync } from 'node:child_process'
import fs from 'node:fs'

/** Places in /proc/pid/stat behind the name, which stands in parentheses and may hold anything. [proc(5)] */
const STATE = 0
const THREADS = 17
const START = 19

/**
 * When a process started, as its system tells it: together with its number, the identity of a process.
 *
 * A process that nobody has asked for its exit status has ended all the same; but not while threads of it are left,
 * which still hold its files and their locks.
 *
 * @returns undefined if it has ended
 */
export function processStart(pid: number): string | undefined {
  return process.platform === 'linux' ? startByProc(pid) : startByPs(pid)
}

function startByProc(pid: number): string | undefined {
  let stat: string
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return undefined
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const over = /[ZX]/.test(fields[STATE] ?? '') && Number(fields[THREADS]) <= 1
  return over ? undefined : fields[START]
}

/** What every Unix can tell. [POSIX ps, with the field lstart that BSD, macOS and procps add] */
export function startByPs(pid: number): string | undefined {
  const { stdout } = spawnSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], {
    encoding: 'utf8',
    env: { LC_ALL: 'C', PATH: process.env.PATH },
  })
  const [, state, start] = /^\s*(\S+)\s+(\S.*?)\s*$/m.exec(stdout ?? '') ?? []
  return state === undefined || state.startsWith('Z') ? undefined : start
}
