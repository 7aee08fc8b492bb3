import type { Chain } from '../../lib/chain/chain.ts'
import { type OpenOptions, openDisk, parseToken, promised, VdiskError } from '../../lib/index.ts'
import type { FileStore } from '../../lib/io/files.ts'
import type { Io } from '../../lib/io/io.ts'
import { filesOf, openUntracked } from '../../lib/jobs/images.ts'
import { howFor, openSidecar, sidecarOf, subjectOf } from '../../lib/jobs/tracked-disk.ts'
import { ChangeMap } from '../../lib/tracking/change-map.ts'
import { oneByOne } from '../../lib/tracking/changed-runs.ts'
import type { CrashFolder } from './crash-folder.ts'
import { PAGE } from './paged-file.ts'
import { answers, expectTold, type KnownMoment } from './told.ts'
import { howToOpen, type TrackedKind } from './tracking-operations.ts'

/** What is to be looked at after a crash. */
export interface TrackedExpectation {
  /** tokens that had been handed out */
  readonly moments: readonly KnownMoment<string>[]
  /** every file that may be the disk */
  readonly homes: ReadonlySet<string>
  /** pages that were ever written to */
  readonly touched: ReadonlySet<number>
  /** it is written to, too */
  readonly thorough: boolean
  /** the medium lied: nothing is promised */
  readonly lied: boolean
}

/**
 * Asks every record what has changed since each token, and compares that with what the disk beside it holds: each granule that
 * differs from the content at that moment must be told. Then the disks are opened for writing, and asked again.
 *
 * @returns length of the log after the disks were opened for writing and closed
 */
export async function examineTracked(
  kind: TrackedKind,
  folder: CrashFolder,
  expected: TrackedExpectation,
): Promise<number> {
  await askAll(kind, folder, expected)
  if (folder.log.some(({ kind: one }) => one !== 'flush' && one !== 'mark')) throw new Error('asking wrote something')
  for (const name of expected.homes) await touch(kind, folder, name, undefined)
  const recovered = folder.log.length
  await askAll(kind, folder, expected)
  if (!expected.thorough) return recovered
  for (const [i, name] of [...expected.homes].toReversed().entries()) {
    await touch(kind, folder, name, 20 + i)
    await askAll(kind, folder, { ...expected, touched: new Set([...expected.touched, 20 + i]) })
  }
  return recovered
}

/** Opens a disk for writing. @param page is written to; undefined: nothing is */
async function touch(kind: TrackedKind, folder: CrashFolder, name: string, page: number | undefined): Promise<void> {
  if (!folder.has(name)) return
  try {
    const disk = await openDisk(name, { ...howToOpen({ kind, folder }, name), writable: true })
    try {
      if (page !== undefined) await disk.write(page * PAGE, new Uint8Array(300).fill(page))
    } finally {
      await disk.close()
    }
  } catch (error) {
    // A layer whose parent has been written to, or that is half made.
    if (!(error instanceof VdiskError)) throw error
  }
}

async function askAll(kind: TrackedKind, folder: CrashFolder, expected: TrackedExpectation): Promise<void> {
  for (const name of expected.homes) {
    if (!folder.has(name)) continue
    try {
      await promised(askOne(name, howToOpen({ kind, folder }, name), expected))
    } catch (error) {
      // A layer that is half made, or built upon what has changed since.
      if (!(error instanceof VdiskError)) throw error
    }
  }
}

/** As the verb asks, but of all tokens at once. @throws VdiskError where nobody is told anything */
function* askOne(name: string, options: OpenOptions, expected: TrackedExpectation): Io<void> {
  const files = filesOf(options)
  const sidecar = sidecarOf(name, files)
  const chain = yield* openUntracked(name, options)
  let store: FileStore | undefined
  try {
    if (!files.look(sidecar)) {
      if (expected.lied) return
      throw new Error(`${name}: its changes are not tracked any more`)
    }
    store = openSidecar(files, sidecar, 'read', options)
    const map = yield* ChangeMap.view(subjectOf(chain, undefined), { ...howFor(chain, files, sidecar), store })
    const held = new Map<number, Uint8Array>()
    const { touched, lied, moments } = expected
    for (const number of touched) if (number * PAGE < chain.size) held.set(number, yield* pageOf(chain, number))
    for (const moment of moments) {
      const told: number[] = []
      const token = parseToken(moment.token)
      const { full } = yield* map.changes(
        token,
        oneByOne((offset, length) => told.push(offset, offset + length)),
      )
      if (full === undefined) answers.exact++
      else answers.full++
      if (full === undefined && !lied) {
        expectTold(moment, { told, touched, size: chain.size, read: (number) => held.get(number) })
      }
    }
  } finally {
    store?.close()
    yield* chain.close()
  }
}

function* pageOf(chain: Chain, number: number): Io<Uint8Array> {
  const page = new Uint8Array(Math.min(PAGE, chain.size - number * PAGE))
  yield* chain.read(number * PAGE, page)
  return page
}
