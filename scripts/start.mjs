// npm start: the guided tour; npm start -- VERB ...: the tool itself.
import { spawn } from 'node:child_process'
import os from 'node:os'
import { ensureBuild, ensurePackages } from './prepare.mjs'

ensurePackages()
const built = await ensureBuild()
const args = process.argv.length > 2 ? process.argv.slice(2) : ['tour']
const cwd = process.env.INIT_CWD ?? process.cwd()
const tool = spawn(process.execPath, [built, ...args], { stdio: 'inherit', cwd })
// Ctrl-C reaches the tool as well as us: it puts things in order, and we wait for that.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => tool.kill(signal))
tool.on('exit', (code, signal) => process.exit(code ?? 128 + os.constants.signals[signal]))
