// npm test: packages, build, and all tests; arguments go to vitest.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { ensureBuild, ensurePackages, root } from './prepare.mjs'

ensurePackages()
await ensureBuild()
const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
const result = spawnSync(process.execPath, [vitest, 'run', ...process.argv.slice(2)], { stdio: 'inherit', cwd: root })
process.exit(result.status ?? 1)
