// npm start: the guided tour; npm start -- VERB ...: the tool itself.
import { spawnSync } from 'node:child_process'
import { ensureBuild, ensurePackages } from './prepare.mjs'

ensurePackages()
const built = await ensureBuild()
const args = process.argv.length > 2 ? process.argv.slice(2) : ['tour']
const cwd = process.env.INIT_CWD ?? process.cwd()
const result = spawnSync(process.execPath, [built, ...args], { stdio: 'inherit', cwd })
process.exit(result.status ?? 1)
