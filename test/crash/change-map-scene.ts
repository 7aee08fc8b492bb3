import { VdiskError } from '../../lib/errors.ts'
import { promised, runSync } from '../../lib/io/io.ts'
import type { Subject } from '../../lib/tracking/binding.ts'
import { ChangeMap, type ChangeMapOptions } from '../../lib/tracking/change-map.ts'
import { oneByOne } from '../../lib/tracking/changed-runs.ts'
import type { Token } from '../../lib/tracking/token.ts'
import { patternFor } from '../model/history.ts'
import { CrashFolder, type RecordedStore } from './crash-folder.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import type { Played, Scene } from './scene.ts'
import { answers, expectTold, type KnownMoment, questionOf } from './told.ts'
import { pagesOf } from './truth.ts'
import { begun } from './without-chance.ts'

/** A plain file whose changes are recorded, with nothing else around it: so a state costs little. */
export const CHANGE_MAP = 'tracking alone'

const DISK = '/d/disk'
const SIDECAR = '/d/disk.vdisk-track'
const REGION = 4 << 20
const SIZE = 5 * REGION + 3 * PAGE
/** What a page of counters covers. */
const COVERED = 1020 * PAGE
const CONTENT = new Uint8Array(32).fill(7)

type Moment = KnownMoment<Token>

/** The file in use, and the truth about it. */
class Desk {
  readonly folder: CrashFolder
  readonly disk: RecordedStore
  readonly moments: Moment[]
  readonly touched: Set<number>
  content: PagedFile
  map: ChangeMap
  private clock = 0
  private fill = 5

  constructor(folder: CrashFolder, content: PagedFile, moments: readonly Moment[]) {
    this.folder = folder
    this.disk = folder.store(DISK)
    this.content = content
    this.moments = [...moments]
    this.touched = new Set(pagesOf(content))
    this.map = runSync(ChangeMap.open(subjectOf(this.disk), this.how()))
  }

  how(): ChangeMapOptions {
    return { ...howToOpen(this.folder, this.disk), now: () => this.clock }
  }

  /** A change begins. @returns brings it to the disk; what that returns ends it */
  begin(offset: number, length = 900): () => () => void {
    if (offset + length > this.disk.size()) return () => () => {}
    const beginning = this.map.begin(offset, length)
    const begun = typeof beginning === 'number' ? beginning : runSync(beginning)
    return () => {
      this.put(offset, length)
      return () => {
        const ending = this.map.end(offset, length, begun)
        if (ending) runSync(ending)
      }
    }
  }

  write(offset: number, length?: number): void {
    this.begin(offset, length)()()
  }

  checkpoint(): void {
    const token = runSync(this.map.checkpoint())
    this.disk.flush()
    this.moments.push({ token, at: this.folder.log.length, content: this.content })
  }

  /** A checkpoint comes between the beginning of a change and its coming to the disk. @param late its region has rested since */
  overtaken(late: boolean): void {
    const put = this.begin(7 * PAGE)
    if (late) for (let i = 0; i < 2; i++) this.restAndFold()
    this.checkpoint()
    put()()
    // The page of intents is written.
    if (late) this.write(4 * REGION)
  }

  flush(): void {
    this.disk.flush()
    runSync(this.map.flushed())
  }

  /** Time goes by: the next change folds. */
  rest(): void {
    this.clock += 6000
  }

  private restAndFold(): void {
    this.rest()
    this.write(3 * REGION)
  }

  private put(offset: number, length: number): void {
    const source = patternFor(offset, length, this.fill++)
    this.disk.write(offset, source)
    this.content = new PagedFile(this.content)
    this.content.write(offset, source)
    for (const page of pagesOf(this.content)) this.touched.add(page)
  }

  resize(size: number): void {
    runSync(this.map.resizing(size))
    this.disk.truncate(size)
    this.content = new PagedFile(this.content)
    this.content.truncate(size)
    this.map.resized()
    this.disk.flush()
  }

  reopen(): void {
    this.disk.flush()
    runSync(this.map.close())
    this.map = runSync(ChangeMap.open(subjectOf(this.disk), this.how()))
  }
}

const OPERATIONS: Record<string, (desk: Desk) => void> = {
  write: (desk) => desk.write(3 * PAGE + 100),
  'write elsewhere': (desk) => desk.write(3 * REGION),
  'write across regions': (desk) => desk.write(2 * REGION - 400),
  'write across pages of counters': (desk) => desk.write(COVERED - 400),
  checkpoint: (desk) => desk.checkpoint(),
  overtaken: (desk) => desk.overtaken(false),
  'overtaken late': (desk) => desk.overtaken(true),
  flush: (desk) => desk.flush(),
  rest: (desk) => desk.rest(),
  reopen: (desk) => desk.reopen(),
  grow: (desk) => desk.resize(SIZE + REGION),
  shrink: (desk) => desk.resize(REGION + 2 * PAGE),
}

export async function changeMapScene(): Promise<Scene> {
  const folder = new CrashFolder()
  const disk = folder.made(DISK)
  const content = new PagedFile()
  for (const file of [disk, content]) {
    file.write(3 * REGION + PAGE, patternFor(0, 600, 3))
    file.truncate(SIZE)
  }
  const store = folder.made(SIDECAR)
  const trackId = await begun(() =>
    promised(ChangeMap.create(store, subjectOf(disk), { granularity: PAGE, required: false, at: 0 })),
  )
  const moments = [{ token: { trackId, epoch: 0, size: SIZE }, at: 0, content }]
  return {
    name: CHANGE_MAP,
    sector: 512,
    start: folder.medium,
    operations: Object.keys(OPERATIONS),
    play: async (operations) => play(new Desk(new CrashFolder(folder.medium), content, moments), operations),
  }
}

function play(desk: Desk, operations: readonly string[]): Played {
  const { folder, moments, touched } = desk
  const begins: number[] = []
  for (const name of operations) {
    begins.push(folder.log.length)
    folder.mark(name)
    OPERATIONS[name]?.(desk)
  }
  return {
    log: folder.log,
    begins,
    questionAt: (end) => questionOf(moments.filter(({ at }) => at <= end)),
    examine: async (crashed, { end, liedFlushes }) => {
      const known = { moments: moments.filter(({ at }) => at <= end), touched }
      try {
        return { recovered: await examine(crashed, known, liedFlushes !== undefined), asPromised: false }
      } catch (error) {
        // Of a medium that lied nothing need be left that could be asked.
        if (liedFlushes !== undefined && error instanceof VdiskError) {
          return { recovered: crashed.log.length, asPromised: false }
        }
        throw error
      }
    },
  }
}

async function examine(
  folder: CrashFolder,
  { moments, touched }: { readonly moments: readonly Moment[]; readonly touched: ReadonlySet<number> },
  lied: boolean,
): Promise<number> {
  const disk = folder.store(DISK)
  const how = { ...howToOpen(folder, disk), now: () => 0 }
  const content = folder.fileBehind(folder.numberOf(DISK))
  const read = (number: number): Uint8Array | undefined => content.page(number)
  const ask = async (map: ChangeMap): Promise<void> => {
    for (const moment of moments) {
      const told: number[] = []
      const { full } = await promised(
        map.changes(
          moment.token,
          oneByOne((offset, length) => told.push(offset, offset + length)),
        ),
      )
      if (full === undefined) answers.exact++
      else answers.full++
      if (full === undefined && !lied) expectTold(moment, { told, touched, size: content.size, read })
    }
  }
  await ask(runSync(ChangeMap.view(subjectOf(disk), how)))
  const map = runSync(ChangeMap.open(subjectOf(disk), how))
  const recovered = folder.log.length
  await ask(map)
  runSync(map.close())
  await ask(runSync(ChangeMap.view(subjectOf(disk), how)))
  return recovered
}

/** As a format whose identity tells of every writer would have it: what is on the medium is ours. */
function subjectOf(disk: RecordedStore): Subject {
  return { size: disk.size(), stamp: disk.stamp(), content: CONTENT, next: CONTENT, noticesWriters: true }
}

function howToOpen(folder: CrashFolder, disk: RecordedStore): Omit<ChangeMapOptions, 'now'> {
  const remove = (): never => {
    throw new Error('the record was removed')
  }
  const store = folder.store(SIDECAR)
  return { store, sizeOf: () => disk.size(), stampOf: () => disk.stamp(), contentOf: () => CONTENT, remove }
}
