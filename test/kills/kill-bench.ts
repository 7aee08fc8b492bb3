import fs from 'node:fs'
import path from 'node:path'
import { build } from 'esbuild'
import type { KillBench } from './killed-job.ts'

/** @param root of the repository @param folder where programs and images go; who gives it removes it */
export async function makeKillBench(root: string, folder: string): Promise<KillBench> {
  const program = path.join(folder, 'job-program.mjs')
  await build({
    entryPoints: [path.join(root, 'test', 'kills', 'job-program.ts')],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
    logLevel: 'error',
  })
  // Packages outside the bundle are found from beside it.
  fs.symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'), 'dir')
  const newFolder = (): string => fs.mkdtempSync(path.join(folder, 'killed-'))
  return { program, killer: path.join(root, 'test', 'support', 'kill-at-change.mjs'), newFolder }
}
