// Builds dist/: the library by the compiler, file by file with its types; the command line bundled, so that it starts fast.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const { version } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'))

/**
 * yargs measures help texts with a library that knows emoji; compiling its patterns takes 20 ms of every start. Ours
 * have none, so their width is their length.
 */
const plainWidth = {
  name: 'plain-width',
  setup(build) {
    build.onResolve({ filter: /^string-width$/ }, () => ({ path: 'string-width', namespace: 'plain-width' }))
    build.onLoad({ filter: /.*/, namespace: 'plain-width' }, () => ({
      // Both who imports it and who requires it (cli-progress) must get the function itself.
      contents: 'module.exports = (text) => String(text).replace(/\\u001b\\[[0-9;]*m/g, "").length',
    }))
  },
}

export async function build() {
  fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true })
  const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const compiled = spawnSync(process.execPath, [tsc, '-p', path.join(root, 'tsconfig.build.json')], {
    cwd: root,
    stdio: 'inherit',
  })
  if (compiled.status !== 0) throw new Error('the compiler found errors')
  fs.rmSync(path.join(root, 'dist', 'cli'), { recursive: true, force: true })
  const { build: bundle } = await import('esbuild')
  await bundle({
    absWorkingDir: root,
    entryPoints: { 'cli/main': 'cli/main.ts' },
    outdir: 'dist',
    chunkNames: 'cli/chunks/[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: ['koffi', '@bokuweb/zstd-wasm'],
    define: { __VDISK_VERSION__: JSON.stringify(version) },
    // Some packages inside the bundle are CommonJS and ask for Node's modules by require.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
    minify: true,
    keepNames: true,
    plugins: [plainWidth],
    legalComments: 'none',
    logLevel: 'warning',
  })
  fs.chmodSync(path.join(root, 'dist', 'cli', 'main.js'), 0o755)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build()
