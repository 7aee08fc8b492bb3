import { createDisk } from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { CrashFolder, type Entry } from './crash-folder.ts'
import { pendingAt } from './crash-state.ts'
import { fileHash, mixed, textHash } from './fingerprint.ts'
import { examineShelf, type Seen } from './job-examiner.ts'
import { type Desk, doJob, FOLDER, inFolder, JOB_OPERATIONS, type Kind, type Shelf } from './job-operations.ts'
import { PagedFile } from './paged-file.ts'
import { Recollection } from './recollection.ts'
import type { Played, Scene } from './scene.ts'
import { Truth } from './truth.ts'
import { begun } from './without-chance.ts'

/** Files in a folder, a chain of two among them, worked on by whole jobs. */
export async function jobScene(name: string, kind: Kind): Promise<Scene> {
  const { folder, shelf } = await begun(() => begin(kind))
  return {
    name,
    sector: 512,
    start: folder.medium,
    operations: JOB_OPERATIONS,
    play: (operations) => play(kind, folder, shelf, operations),
  }
}

async function play(kind: Kind, beginning: CrashFolder, shelf: Shelf, operations: readonly string[]): Promise<Played> {
  const folder = new CrashFolder(beginning.medium)
  const truth = new Truth<Shelf>(folder, shelf)
  const desk: Desk = { kind, folder, truth, fill: 5 }
  const begins: number[] = []
  for (const name of operations) {
    begins.push(folder.log.length)
    folder.mark(name)
    await doJob(desk, name)
  }
  const touched = truth.touched(({ disks }) => disks.values())
  const known = new Recollection<Seen>()
  return {
    log: folder.log,
    begins,
    questionAt(end) {
      const { promised, possible } = truth.questionAt(end, shelfHash)
      return { promised, possible: mixed(possible, isClosing(folder.log, end) ? 1 : 0) }
    },
    async examine(crashed, crash, thorough) {
      const { end, liedFlushes } = crash
      // Where flushes lie nothing is promised but that what is found can be told.
      const possible = liedFlushes === undefined ? truth.possibleAt(end) : undefined
      const recovered = await examineShelf(kind, crashed, {
        possible,
        touched,
        known,
        thorough,
        names: new Set(truth.now.layers),
        closing: isClosing(folder.log, end),
      })
      // What is gone on with depends on what is under way.
      return { recovered, asPromised: false }
    },
  }
}

function shelfHash({ disks, layers, task }: Shelf): number {
  let hash = textHash(JSON.stringify([layers, task]))
  for (const [name, content] of disks) hash = mixed(mixed(hash, textHash(name)), fileHash(content))
  return hash
}

/** Whether the crash fell into a clean close: its stamp is in the header, the file does not have it yet. */
function isClosing(log: readonly Entry[], end: number): boolean {
  return pendingAt(log, end).some((index) => {
    const entry = log[index] as Entry
    if (entry.kind !== 'write' || entry.at !== 0) return false
    return log.slice(index + 1).find((later) => 'file' in later && later.file === entry.file)?.kind === 'stamp'
  })
}

/** A base with a little content, and a layer over it with a little more. */
async function begin(kind: Kind): Promise<{ folder: CrashFolder; shelf: Shelf }> {
  const folder = new CrashFolder()
  const [base, layer] = [`${FOLDER}/base`, `${FOLDER}/layer`]
  let content = new PagedFile()
  content.truncate(kind.size)
  const disks = new Map<string, PagedFile>()
  for (const [name, format] of [
    [base, kind.base],
    [layer, kind.layer],
  ] as const) {
    await using disk = await createDisk(name, {
      ...inFolder(folder),
      format,
      options: kind.options[format] ?? {},
      size: kind.size,
      ...(name === layer ? { parent: base, parentFormat: kind.base } : {}),
    })
    for (const granule of name === base ? [0, 1] : [1.5]) {
      const offset = granule * kind.granule
      const source = patternFor(offset, Math.min(kind.granule, 1024), disks.size + 7)
      await disk.write(offset, source)
      content.write(offset, source)
    }
    disks.set(name, content)
    content = new PagedFile(content)
  }
  return { folder, shelf: { disks, layers: [base, layer] } }
}
