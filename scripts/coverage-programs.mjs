// Branches that programs took which tests start: the command line and its servers.
//
// Those run from a bundle each, in processes of their own, where the tests' instruments do not reach. V8 itself counts there
// (NODE_V8_COVERAGE), and what it found is led back to the sources by the same two packages that vitest counts with;
// they come with @vitest/coverage-v8. A process that is killed tells nothing.
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { mergeProcessCovs } from '@bcoe/v8-coverage'
import astV8ToIstanbul from 'ast-v8-to-istanbul'
import { parseAstAsync } from 'vitest/node'

/** Reports merged at a time: all of them would be gigabytes. */
const AT_ONCE = 20

/**
 * Adds to the branches of `coverage` what programs did.
 *
 * Bundled, a branch may begin a column further, or on the line before (`else if`); so branches are told apart by their order in the
 * file. Where the two sides see different branches in a file, by line and by their order there; and where they do so in a line,
 * nothing of it is counted: this may miss some, and never counts too many.
 *
 * @param coverage istanbul's: by file, with branchMap and b
 * @param folder what V8 wrote
 * @param bundle the file that was run, or copies of it under the same name elsewhere; its map lies beside it
 */
export async function countPrograms(coverage, folder, bundle) {
  const counted = mergeReports(folder, bundle)
  if (!counted) return
  const code = fs.readFileSync(bundle, 'utf8')
  const found = await astV8ToIstanbul({
    code,
    sourceMap: JSON.parse(fs.readFileSync(`${bundle}.map`, 'utf8')),
    ast: parseAstAsync(code),
    coverage: counted,
    wrapperLength: 0,
  })
  for (const [file, ofProgram] of Object.entries(found)) {
    const ofTests = coverage[file]
    if (!ofTests) continue
    const [whole, wholeOther] = [branchesOf(ofTests), branchesOf(ofProgram)]
    if (shapeOf(whole) === shapeOf(wholeOther)) {
      addCounts(whole, wholeOther)
      continue
    }
    const others = byLine(wholeOther)
    for (const [line, branches] of byLine(whole)) {
      const same = others.get(line)
      if (same && shapeOf(same) === shapeOf(branches)) addCounts(branches, same)
    }
  }
}

/** What V8 says of the bundle, in all processes together; undefined if none ran it. */
function mergeReports(folder, bundle) {
  let merged
  const names = fs.readdirSync(folder)
  for (let i = 0; i < names.length; i += AT_ONCE) {
    const reports = names.slice(i, i + AT_ONCE).flatMap((name) => {
      const found = scriptsIn(path.join(folder, name)).find(({ url, functions }) => isOf(bundle, url, functions))
      return found ? [{ result: [{ ...found, url: pathToFileURL(bundle).href }] }] : []
    })
    if (reports.length > 0) merged = mergeProcessCovs(merged ? [merged, ...reports] : reports)
  }
  return merged?.result[0]
}

/** Whether a script is the bundle: a copy of it has its name and, in its outermost function, its length. */
function isOf(bundle, url, [whole]) {
  if (!url.startsWith('file:') || path.basename(fileURLToPath(url)) !== path.basename(bundle)) return false
  return fileURLToPath(url) === bundle || whole?.ranges[0]?.endOffset === lengthOf(bundle)
}

const lengths = new Map()

function lengthOf(bundle) {
  if (!lengths.has(bundle)) lengths.set(bundle, fs.readFileSync(bundle, 'utf8').length)
  return lengths.get(bundle)
}

function scriptsIn(file) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8')).result
  } catch {
    // Its process was killed while it wrote.
    return []
  }
}

/** The branches of a file, in order. */
function branchesOf({ branchMap, b }) {
  return Object.entries(branchMap)
    .map(([id, { type, loc }]) => ({ type, line: loc.start.line, column: loc.start.column, counts: b[id] }))
    .sort((a, c) => a.line - c.line || a.column - c.column)
}

function byLine(branches) {
  const lines = new Map()
  for (const branch of branches) lines.set(branch.line, [...(lines.get(branch.line) ?? []), branch])
  return lines
}

function shapeOf(branches) {
  return branches.map(({ type, counts }) => `${type} ${counts.length}`).join()
}

function addCounts(branches, others) {
  for (const [i, { counts }] of branches.entries()) {
    for (const n of counts.keys()) counts[n] += others[i].counts[n]
  }
}
