import { type SpawnSyncOptions, spawn, spawnSync } from 'node:child_process'
import path from 'node:path'

/** The built tool. */
export const MAIN = path.join(import.meta.dirname, '..', '..', 'dist', 'cli', 'main.js')

export interface Ran {
  code: number | null
  out: string
  err: string
  // biome-ignore lint/suspicious/noExplicitAny: documents of many shapes
  json(): any
}

/** Runs the tool in a folder, as its user types it. */
export function commandLineIn(cwd: string, options: SpawnSyncOptions = {}): (...args: string[]) => Ran {
  return (...args) => {
    const result = spawnSync(process.execPath, [MAIN, ...args], { ...options, cwd, encoding: 'utf8' })
    return { code: result.status, out: result.stdout, err: result.stderr, json: () => JSON.parse(result.stdout) }
  }
}

/** Runs the tool and sends it a signal as soon as it has shown some progress. */
export async function interrupted(cwd: string, signal: NodeJS.Signals, ...args: string[]): Promise<Ran> {
  const child = spawn(process.execPath, [MAIN, ...args, '--progress', 'json'], { cwd })
  let [out, err, sent] = ['', '', false]
  child.stdout.setEncoding('utf8').on('data', (text) => {
    out += text
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    err += text
    if (!sent) child.kill(signal)
    sent = true
  })
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  return { code, out, err, json: () => JSON.parse(out) }
}
