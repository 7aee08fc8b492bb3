// npm run bench [-- NAME ...]: measures vdisk beside its peers in one run, and prints ratios.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { ensureBuild, ensurePackages, root } from './prepare.mjs'

ensurePackages()
await ensureBuild()
const { build } = await import('esbuild')
const out = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-bench-'))
try {
  await build({
    absWorkingDir: root,
    entryPoints: ['test/bench/main.ts'],
    outfile: path.join(out, 'main.mjs'),
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: ['koffi', '@bokuweb/zstd-wasm'],
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
