// Loaded before a program, with `node --import`: kills it at the n-th change that it makes to files, without a word and
// in the middle of that change, if it is a write of several pages. `?at=N` says at which; with `&call=NAME` calls of that
// name alone are counted. What a program that got to its end has changed is the last line of its standard error. Changes
// that the kernel makes for it (copy_file_range) are not counted.
import fs from 'node:fs'

const CHANGES = [
  'writeSync',
  'write',
  'ftruncateSync',
  'fdatasyncSync',
  'fdatasync',
  'fsyncSync',
  'renameSync',
  'rmSync',
]
/** No signal comes in the middle of a page. */
const PAGE = 4096

const parameters = new URL(import.meta.url).searchParams
const at = Number(parameters.get('at') ?? Number.POSITIVE_INFINITY)
const { writeSync } = fs
let changes = 0

for (const name of parameters.has('call') ? [parameters.get('call')] : CHANGES) {
  const original = fs[name]
  fs[name] = (...args) => {
    if (name.startsWith('write') && typeof args[1] === 'string') return original(...args)
    if (++changes === at) {
      if (name.startsWith('write')) {
        const [file, bytes, start, length, place] = args
        const part = Math.floor(length / 2 / PAGE) * PAGE
        if (part > 0) writeSync(file, bytes, start, part, place)
      }
      process.kill(process.pid, 'SIGKILL')
    }
    return original(...args)
  }
}

process.on('exit', () => writeSync(2, `\nchanges ${changes}\n`))
