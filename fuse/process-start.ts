import fs from 'node:fs'

/**
 * When a process started, in the kernel's count: together with its number, the identity of a process.
 *
 * @returns undefined if it has ended, even if nobody has asked for its exit status yet
 * @see proc(5), /proc/pid/stat: fields 3 and 22; field 2 is a name in parentheses that may hold anything
 */
export function processStart(pid: number): string | undefined {
  let stat: string
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return undefined
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}
