import type { Bitmap } from '../../lib/bytes/bitmap.ts'
import type { Chain } from '../../lib/chain/chain.ts'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import type { Layer, StoredBitmaps } from '../../lib/contracts/layer.ts'
import { VdiskError } from '../../lib/errors.ts'
import { type Io, promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import type { CrashFolder } from './crash-folder.ts'
import { type Geometry, NAMES } from './geometry.ts'
import { openChain } from './open-layer.ts'
import { PageMemory } from './page-memory.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import type { Examined } from './scene.ts'
import { type Mixture, type Picture, strangeSector } from './truth.ts'

/** What an image was before anything happened to it. */
interface Origin {
  readonly picture: Picture
  /** as children know it */
  readonly identity: string | undefined
}

/** What may be there after a crash, and how that is looked at. */
export interface Expectation {
  readonly possible: readonly Mixture<Picture>[]
  /** pages of the disk that are worth reading */
  readonly touched: ReadonlySet<number>
  /** the medium lied: damage may be told, and what is read may be lost; but nothing may be given to two owners */
  readonly lied: boolean
  /** the last look is that of one who opens what was closed; else of one who goes on */
  readonly reopens: boolean
}

/** What was found of an image that is open. */
interface Found {
  readonly size: number
  readonly linked: boolean
  /** pages of the disk that were read, by number */
  readonly pages: ReadonlyMap<number, Uint8Array>
  readonly snapshots: ReadonlyMap<string, ReadonlyMap<number, Uint8Array>>
  /** names; undefined: they cannot be changed, but may be dropped */
  readonly bitmaps: readonly string[] | undefined
}

/** What is read of one image; the next one overwrites it. */
const memory = new PageMemory()

/** Flags that a crash in a snapshot leaves behind its counts: then a write copies where it need not. */
const HARMLESS = new Set(['COPIED_FLAG_WRONG'])
const NONE = new Set<string>()

const ZEROS = new Uint8Array(PAGE)

/**
 * Opens an image after a crash, for writing; compares all of it with what may be there; if there was something to recover,
 * opens it again, which must find nothing to do; writes where nothing was, which must change nothing else; and checks its
 * structure.
 *
 * @throws Error that says what is wrong
 */
export async function examineLayer(
  geometry: Geometry,
  origin: Origin,
  folder: CrashFolder,
  expected: Expectation,
): Promise<Examined> {
  memory.reset()
  if (expected.lied) {
    await examineAfterLie(geometry, folder, expected)
    return { recovered: folder.log.length, asPromised: false }
  }
  const { driver } = geometry
  const first = await openChain(driver, folder, 'write')
  const found = await look(first, expected.touched)
  const fitting = expectFitting(found, expected.possible)
  const [[last]] = expected.possible as [Mixture<Picture>]
  const asPromised = misfit(found, [last]) === undefined
  const changed = pagesThatDiffer(found, origin.picture)
  // What its parent showed is none of the image's own content.
  if (found.linked === origin.picture.linked) expectIdentity(first, changed, origin)
  await expectBitmaps(first, found, fitting)
  const recovered = changesIn(folder)
    ? await reopened(geometry, folder, first)
    : { chain: first, at: folder.log.length }
  await goOn(geometry, folder, { ...found, chain: recovered.chain }, expected)
  expectKept(geometry, folder)
  return { recovered: recovered.at, asPromised }
}

/** Whether anything was written. */
function changesIn(folder: CrashFolder, from = 0): boolean {
  return folder.log.slice(from).some(({ kind }) => kind !== 'flush' && kind !== 'mark')
}

/** Closes an image that was recovered, and opens it again, which must find nothing to do. */
async function reopened(
  { driver }: Geometry,
  folder: CrashFolder,
  first: Chain,
): Promise<{ readonly chain: Chain; readonly at: number }> {
  await promised(first.close())
  const at = folder.log.length
  const chain = await openChain(driver, folder, 'write')
  if (changesIn(folder, at)) throw new Error('opened a second time, it has something to recover again')
  return { chain, at }
}

/** A medium that lied may have lost anything; but no two ranges of a disk that opens, and seems sound, may share their place. */
async function examineAfterLie(geometry: Geometry, folder: CrashFolder, expected: Expectation): Promise<void> {
  try {
    const chain = await openChain(geometry.driver, folder, 'write')
    const isSound = (await errorsOf(geometry.driver, chain, NONE)).length === 0
    const found = isSound ? await look(chain, expected.touched) : undefined
    if (found) await goOn(geometry, folder, { ...found, chain }, expected)
  } catch (error) {
    if (!(error instanceof VdiskError)) throw error
  }
}

/** The image is used as if nothing had happened: it is written here and there, flushed or closed, and looked at again. */
async function goOn(
  { driver }: Geometry,
  folder: CrashFolder,
  { chain, ...found }: Found & { readonly chain: Chain },
  { touched, lied, reopens }: Expectation,
): Promise<void> {
  const expected = new Map(found.pages)
  for (const offset of await silentPlaces(chain)) {
    const source = patternFor(offset, Math.min(600, chain.size - offset), 171)
    await promised(chain.write(offset, source))
    overlay(expected, offset, source, lied)
  }
  if (reopens) await promised(chain.close())
  else await promised(chain.flush())
  const last = reopens ? await openChain(driver, folder, 'read') : chain
  const now = await look(last, new Set([...touched, ...expected.keys()]))
  const changed = pageThatDiffers(now.pages, expected, lied)
  if (changed !== undefined) throw new Error(`a write changed ${changed * PAGE} too`)
  for (const [name, pages] of now.snapshots) {
    const differs = pageThatDiffers(pages, found.snapshots.get(name) ?? new Map(), lied)
    if (differs !== undefined) throw new Error(`a write changed ${differs * PAGE} of snapshot ${name} too`)
  }
  const errors = await errorsOf(driver, last, HARMLESS)
  if (errors.length > 0) throw new Error(`the check finds: ${errors.join('; ')}`)
  await promised(last.close())
}

/** The number of a page that is not as it was; what was not read before was zero, but on a medium that lied. */
function pageThatDiffers(
  now: ReadonlyMap<number, Uint8Array>,
  before: ReadonlyMap<number, Uint8Array>,
  lied: boolean,
): number | undefined {
  for (const [number, page] of now) {
    const wanted = before.get(number) ?? (lied ? page : ZEROS)
    if (Buffer.compare(page, wanted.subarray(0, page.length)) !== 0) return number
  }
  return undefined
}

async function errorsOf(driver: FormatDriver, chain: Chain, harmless: ReadonlySet<string>): Promise<string[]> {
  const report = new CheckReport()
  await promised(driver.check(chain.layers.at(-1) as Layer, report))
  return report.findings
    .filter(({ severity, code }) => severity === 'error' && !harmless.has(code))
    .map(({ code, message }) => `${code} ${message}`)
}

/** Where the disk holds nothing: its first such place, and its last; and one that it does hold. */
async function silentPlaces(chain: Chain): Promise<number[]> {
  const places: number[] = chain.size > 0 ? [0] : []
  for (let offset = 0; offset < chain.size; ) {
    const { length, kind, depth } = await promised(chain.map(offset, chain.size - offset))
    const isSilent = kind === 'zero' || depth !== chain.layers.length - 1
    if (isSilent && places.length < 3) places.push(offset)
    offset += length
  }
  return places
}

function overlay(pages: Map<number, Uint8Array>, offset: number, source: Uint8Array, lied: boolean): void {
  const copy = new PagedFile()
  for (const number of [Math.floor(offset / PAGE), Math.floor((offset + source.length - 1) / PAGE)]) {
    const page = pages.get(number)
    if (page) copy.write(number * PAGE, page)
  }
  copy.write(offset, source)
  for (const number of copy.changed) {
    if (pages.has(number) || !lied) pages.set(number, copy.page(number) as Uint8Array)
  }
}

/** Reads the pages that are worth it; of all others it looks whether the image has anything there. */
function look(chain: Chain, touched: ReadonlySet<number>): Promise<Found> {
  return promised(looking(chain, touched))
}

function* looking(chain: Chain, touched: ReadonlySet<number>): Io<Found> {
  const top = chain.layers.at(-1) as Layer
  const bitmaps = top.bitmaps?.edit && top.bitmaps.list().map(({ name }) => name)
  const snapshots = new Map<string, ReadonlyMap<number, Uint8Array>>()
  for (const { id, name } of top.snapshots?.list() ?? []) {
    snapshots.set(name, yield* pagesOf(yield* chain.viewOfSnapshot(id), touched))
  }
  return {
    size: chain.size,
    linked: chain.layers.length > 1,
    pages: yield* pagesOf(chain, touched),
    snapshots,
    bitmaps,
  }
}

function* pagesOf(chain: Chain, touched: ReadonlySet<number>): Io<Map<number, Uint8Array>> {
  const pages = new Map<number, Uint8Array>()
  for (const number of touched) {
    const length = Math.min(PAGE, chain.size - number * PAGE)
    if (length > 0) pages.set(number, memory.take(length))
  }
  for (const [number, page] of pages) yield* chain.read(number * PAGE, page)
  for (let offset = 0; offset < chain.size; ) {
    const number = Math.floor(offset / PAGE)
    const next = (number + 1) * PAGE
    if (pages.has(number)) {
      offset = next
      continue
    }
    const { kind, length } = yield* chain.map(offset, chain.size - offset)
    if (kind === 'zero') {
      offset += length
      continue
    }
    const page = memory.take(Math.min(PAGE, chain.size - number * PAGE))
    yield* chain.read(number * PAGE, page)
    pages.set(number, page)
    offset = Math.max(next, offset + length)
  }
  return pages
}

/** @returns all that it may be, by their first pictures @throws Error that says why what was found is none of what may be */
function expectFitting(found: Found, possible: readonly Mixture<Picture>[]): Picture[] {
  const reasons = possible.map((mixture) => misfit(found, mixture))
  const fitting = possible.filter((_, i) => reasons[i] === undefined).map(([picture]) => picture)
  if (fitting.length === 0) throw new Error(`what was found may not be: ${reasons.join('; or ')}`)
  return fitting
}

function misfit(found: Found, mixture: Mixture<Picture>): string | undefined {
  const [picture] = mixture
  if (found.size !== picture.disk.size) return `the size is ${found.size}, not ${picture.disk.size}`
  if (found.linked !== picture.linked) return found.linked ? 'it has a parent' : 'it has no parent'
  const names = [...found.snapshots.keys()].join()
  const wanted = [...picture.snapshots.keys()].join()
  if (names !== wanted) return `its snapshots are [${names}], not [${wanted}]`
  const bitmaps = [...picture.bitmaps.keys()].join()
  const present = found.bitmaps?.join() ?? bitmaps
  if (present !== bitmaps) return `its bitmaps are [${present}], not [${bitmaps}]`
  const disks = mixture.map(({ disk }) => disk)
  for (const [number, page] of found.pages) {
    const at = strangeSector(number, page, disks)
    if (at !== undefined) return `the sector at ${at} of the disk is none of ${disks.length} that were written there`
  }
  for (const [name, pages] of found.snapshots) {
    for (const [number, page] of pages) {
      const at = strangeSector(number, page, [picture.snapshots.get(name) as PagedFile])
      if (at !== undefined) return `the sector at ${at} of snapshot ${name} is another one`
    }
  }
  return undefined
}

/** Pages of the disk that are not what they were, by number. */
function pagesThatDiffer(found: Found, { disk }: Pick<Picture, 'disk'>): number[] {
  return [...found.pages].flatMap(([number, page]) =>
    strangeSector(number, page, [disk]) === undefined ? [] : [number],
  )
}

/** Where the content is another one, so is the identity: children must not take it for what they knew. */
function expectIdentity(chain: Chain, changed: readonly number[], origin: Origin): void {
  const { identity } = chain.layers.at(-1) as Layer
  if (identity?.kind === 'file') return
  if (changed.length === 0 || !identity?.current || identity.value !== origin.identity) return
  throw new Error('the content is another one, the identity is not')
}

/**
 * A bitmap that can be read covers all that differs from when it began; else it says that it cannot.
 *
 * @param fitting what the image may be: where a crash fell into the clearing of a bitmap, that began before or there
 */
async function expectBitmaps(chain: Chain, found: Found, fitting: readonly Picture[]): Promise<void> {
  const stored = (chain.layers.at(-1) as Layer).bitmaps
  for (const { name, granularity, consistent, enabled } of stored?.list() ?? []) {
    if (!consistent || !enabled) continue
    const bits = await promised((stored as StoredBitmaps).read(name))
    const missed = fitting.map(({ bitmaps }) => missedBy(bits, granularity, found, bitmaps.get(name)))
    if (!missed.includes(undefined))
      throw new Error(`bitmap ${name} does not know that ${(missed[0] as number) * PAGE} has changed`)
  }
}

/** The number of a page that differs from when a bitmap began, though it says nothing of it. */
function missedBy(
  bits: Bitmap,
  granularity: number,
  found: Found,
  began: Picture['disk'] | undefined,
): number | undefined {
  if (!began) return undefined
  return pagesThatDiffer(found, { disk: began })
    .filter((number) => number * PAGE < Math.min(began.size, found.size))
    .find((number) => !touches(bits, granularity, number))
}

/** Whether any granule of a page is set. */
function touches(bits: Bitmap, granularity: number, number: number): boolean {
  const first = Math.floor((number * PAGE) / granularity)
  const end = Math.min(bits.length, Math.ceil(((number + 1) * PAGE) / granularity))
  return bits.count(first, end) > 0
}

/** What other programs put into the header is still there. */
function expectKept({ keeps }: Geometry, folder: CrashFolder): void {
  if (!keeps) return
  const file = folder.fileBehind(folder.numberOf(NAMES.image))
  const head = Buffer.alloc(Math.min(65536, file.size))
  file.read(NAMES.image, 0, head)
  if (!head.includes(Buffer.from(keeps))) throw new Error('an extension of another program is gone')
}
