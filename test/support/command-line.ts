import { spawnSync } from 'node:child_process'
import path from 'node:path'

export interface Ran {
  code: number | null
  out: string
  err: string
  // biome-ignore lint/suspicious/noExplicitAny: documents of many shapes
  json(): any
}

/** The built program. */
const main = path.join(import.meta.dirname, '..', '..', 'dist', 'cli', 'main.js')

/** Runs the built command line in a folder. */
export function commandLine(folder: string): { vdisk: (...args: string[]) => Ran; main: string } {
  const vdisk = (...args: string[]): Ran => {
    const result = spawnSync(process.execPath, [main, ...args], { cwd: folder, encoding: 'utf8' })
    return { code: result.status, out: result.stdout, err: result.stderr, json: () => JSON.parse(result.stdout) }
  }
  return { vdisk, main }
}
