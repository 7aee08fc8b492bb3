// Builds dist/: the library by the compiler, file by file with its types; the command line bundled, so that it starts fast.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
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

/** yargs asserts two things of itself; Node's own assertions bring all of its streams along, 5 ms. */
const plainAssert = {
  name: 'plain-assert',
  setup(build) {
    build.onResolve({ filter: /^assert$/ }, () => ({ path: 'assert', namespace: 'plain-assert' }))
    build.onLoad({ filter: /.*/, namespace: 'plain-assert' }, () => ({
      contents: `
        const fail = (message) => { throw message instanceof Error ? message : new Error(message) }
        export const strictEqual = (a, b, message) => { if (!Object.is(a, b)) fail(message) }
        export const notStrictEqual = (a, b, message) => { if (Object.is(a, b)) fail(message) }`,
    }))
  },
}

/** yargs looks for a package.json around the user's folder, for a version that nobody asks it for: 3 ms. */
const noVersionGuess = {
  name: 'no-version-guess',
  setup(build) {
    build.onResolve({ filter: /^escalade\/sync$/ }, () => ({ path: 'escalade', namespace: 'no-version-guess' }))
    build.onLoad({ filter: /.*/, namespace: 'no-version-guess' }, () => ({
      contents: 'export default () => undefined',
    }))
  },
}

/**
 * Parts of Node that most runs of a verb never come to use, and that take 1 to 4 ms each to load: they are loaded when
 * something of them is used first.
 */
const LATE = /^(?:node:)?(child_process|crypto|net|readline|stream|stream\/web|timers\/promises|worker_threads|zlib)$/

const lateBuiltins = {
  name: 'late-builtins',
  setup(build) {
    build.onResolve({ filter: LATE }, ({ path: name, namespace }) =>
      namespace === 'late' ? { path: name, external: true } : { path: name, namespace: 'late' },
    )
    build.onLoad({ filter: /.*/, namespace: 'late' }, ({ path: name }) => {
      const names = Object.keys(process.getBuiltinModule(name)).map((key) => JSON.stringify(key))
      const getters = names.map((key) => `get ${key}() { return (real ??= require("${name}"))[${key}] }`)
      return { contents: `let real; module.exports = { ${getters.join(', ')} }` }
    })
  },
}

/**
 * esbuild copies the names of a module for each file that imports it, and Node's are imported by a hundred files: 5 ms of
 * every start. One copy will do.
 */
const copyNamesOnce = {
  name: 'copy-names-once',
  setup(build) {
    build.onEnd(() => {
      const file = build.initialOptions.outfile
      const text = fs.readFileSync(file, 'latin1')
      const helper = /\b__toESM=\(mod,isNodeMode,target\)=>(\(.+?\));(?=var )/
      if (!helper.test(text)) throw new Error('esbuild writes __toESM another way now: copyNamesOnce must follow it')
      const once = (_, copy) =>
        `__copied=[new Map,new Map],__toESM=(mod,isNodeMode,target)=>{let copied=__copied[isNodeMode?1:0];return copied.get(mod)??(target=${copy},copied.set(mod,target),target)};`
      fs.writeFileSync(file, text.replace(helper, once), 'latin1')
    })
  },
}

/** @param measured for a run that counts what is executed: one plain file with a map to its sources, compiled when it runs */
export async function build({ measured = false } = {}) {
  fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true })
  const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const compiled = spawnSync(process.execPath, [tsc, '-p', path.join(root, 'tsconfig.build.json')], {
    cwd: root,
    stdio: 'inherit',
  })
  if (compiled.status !== 0) throw new Error('the compiler found errors')
  const cli = path.join(root, 'dist', 'cli')
  fs.rmSync(cli, { recursive: true, force: true })
  const { build: bundle } = await import('esbuild')
  const common = {
    absWorkingDir: root,
    bundle: true,
    platform: 'node',
    target: 'node20',
    external: ['koffi', '@bokuweb/zstd-wasm', 'fuse-native'],
    sourcemap: measured ? 'external' : false,
    logLevel: 'warning',
  }
  await bundle({
    ...common,
    entryPoints: ['cli/main.ts'],
    outfile: path.join(cli, measured ? 'main.js' : 'vdisk.js'),
    format: 'cjs',
    // Code that V8 has kept compiled does not find its way to import() again, in Node 20 and 22: packages are required.
    supported: { 'dynamic-import': false },
    define: {
      __VDISK_VERSION__: JSON.stringify(version),
      'import.meta.url': '__bundle',
      // yargs looks at the terminal when it is loaded, which makes a stream of it; each help is told the width.
      'process.stdout.columns': 'undefined',
    },
    banner: { js: 'const __bundle = require("node:url").pathToFileURL(__filename).href;' },
    // Names stay: errors show them, and the program of a thread is a function taken as text.
    minifyWhitespace: !measured,
    minifySyntax: !measured,
    plugins: [plainWidth, plainAssert, noVersionGuess, lateBuiltins, ...(measured ? [] : [copyNamesOnce])],
    legalComments: 'none',
    // What starts the bundle reads it without decoding (cli/launch.cjs).
    charset: 'ascii',
  })
  // Bundled code is CommonJS: V8 can keep that compiled, and Node has less to do before it runs.
  fs.writeFileSync(path.join(cli, 'package.json'), '{ "type": "commonjs" }\n')
  if (measured) {
    // So that what mounts do can be led back to the sources, too.
    await bundle({
      ...common,
      entryPoints: ['fuse/daemon-main.ts'],
      outfile: path.join(root, 'dist', 'fuse', 'daemon-main.js'),
      allowOverwrite: true,
      format: 'esm',
      banner: {
        js: 'import { createRequire as __requires } from "node:module"; const require = __requires(import.meta.url);',
      },
    })
    return
  }
  fs.copyFileSync(path.join(root, 'cli', 'launch.cjs'), path.join(cli, 'main.js'))
  fs.chmodSync(path.join(cli, 'main.js'), 0o755)
  compileAhead(path.join(cli, 'main.js'))
}

/** Common commands run once, each over the cache of those before, so that what they use is found compiled. */
function compileAhead(main) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-build-'))
  try {
    for (const line of [
      'create base.qcow2 --format qcow2 --size 1M',
      'create top.qcow2 --format qcow2 --parent base.qcow2',
      'info top.qcow2 --chain',
      'check top.qcow2',
      'map top.qcow2',
      'merge top.qcow2 --delete',
      'convert base.qcow2 copy.vhdx --format vhdx',
      'info copy.vhdx',
      'convert copy.vhdx copy.raw --format raw',
    ]) {
      const { status } = spawnSync(process.execPath, [main, ...line.split(' ')], {
        cwd: folder,
        env: { ...process.env, VDISK_WRITE_CODE_CACHE: '1' },
      })
      // Only speed depends on it: a folder for temporary files that cannot be locked, say, must not keep vdisk away.
      if (status !== 0) return
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await build()
