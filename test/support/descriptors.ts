import fs from 'node:fs'

/** Whether this system tells which files a process has open. */
export const TELLS_DESCRIPTORS = fs.existsSync('/proc/self/fd')

/** How many descriptors of a file this process has open, under whatever name. */
export function descriptorsOf(file: string): number {
  const wanted = fs.statSync(file, { bigint: true })
  return fs.readdirSync('/proc/self/fd').filter((fd) => {
    const stat = statOf(`/proc/self/fd/${fd}`)
    return stat?.ino === wanted.ino && stat.dev === wanted.dev
  }).length
}

/** The descriptor with which the folder was read is closed by now. */
function statOf(file: string): fs.BigIntStats | undefined {
  try {
    return fs.statSync(file, { bigint: true })
  } catch {
    return undefined
  }
}
