import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { ensureBuild, ensurePackages, root } from './prepare.mjs'

/**
 * Builds vdisk where that is needed, bundles a program of test/ that uses it, and runs that with the arguments of this
 * process. The program finds the checkout in VDISK_ROOT.
 *
 * @param entry from the root of the checkout
 */
export async function runBundled(entry) {
  ensurePackages()
  await ensureBuild()
  const { build } = await import('esbuild')
  const out = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-bundled-'))
  try {
    await build({
      absWorkingDir: root,
      entryPoints: [entry],
      outfile: path.join(out, 'main.mjs'),
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      external: ['koffi', '@bokuweb/zstd-wasm', 'esbuild'],
      banner: {
        js: `import { createRequire as __c } from 'node:module'; const require = __c(${JSON.stringify(path.join(root, 'package.json'))});`,
      },
      logLevel: 'warning',
    })
    // Packages outside the bundle are found from beside it.
    fs.symlinkSync(path.join(root, 'node_modules'), path.join(out, 'node_modules'), 'dir')
    const args = ['--expose-gc', path.join(out, 'main.mjs'), ...process.argv.slice(2)]
    const result = spawnSync(process.execPath, args, {
      stdio: 'inherit',
      cwd: root,
      env: { ...process.env, VDISK_ROOT: root },
    })
    process.exitCode = result.status ?? 1
  } finally {
    fs.rmSync(out, { recursive: true, force: true })
  }
}
