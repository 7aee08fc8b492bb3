// Makes a checkout usable with nothing but Node: installs packages and builds where that is needed.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')

/**
 * Installs what package-lock.json says, unless that is there already.
 *
 * A node_modules that is only a link belongs to another checkout: npm would empty that, so its packages are taken as
 * they are.
 */
export function ensurePackages() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19))
    fail(`vdisk needs Node 20.19 or later; this is ${process.versions.node}`)
  if (fs.lstatSync(path.join(root, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink()) return
  const installed = path.join(root, 'node_modules', '.package-lock.json')
  if (changedAt(installed) >= changedAt(path.join(root, 'package-lock.json'))) return
  console.error('vdisk: installing packages (once)')
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const result = spawnSync(npm, ['ci', '--loglevel=error', '--no-audit', '--no-fund'], {
    cwd: root,
    stdio: ['ignore', process.stderr, 'inherit'],
    shell: process.platform === 'win32',
  })
  if (result.status !== 0) fail('npm ci failed; its messages are above')
  fs.utimesSync(installed, new Date(), new Date())
}

/** Builds dist/ unless it is newer than all sources. */
export async function ensureBuild() {
  const built = path.join(root, 'dist', 'cli', 'main.js')
  const sources = ['lib', 'fuse', 'cli', 'scripts', 'package.json', 'tsconfig.json', 'tsconfig.build.json'].map(
    (name) => path.join(root, name),
  )
  if (changedAt(built) >= Math.max(...sources.map(newest))) return built
  console.error('vdisk: building')
  const { build } = await import('./build.mjs')
  await build()
  return built
}

function newest(file) {
  if (!fs.existsSync(file)) return 0
  if (!fs.statSync(file).isDirectory()) return changedAt(file)
  return Math.max(0, ...fs.readdirSync(file).map((name) => newest(path.join(file, name))))
}

function changedAt(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0
}

function fail(message) {
  console.error(`vdisk: ${message}`)
  process.exit(1)
}
