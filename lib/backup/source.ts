import type { Chain } from '../chain/chain.ts'
import type { Device } from '../contracts/device.ts'
import { isVdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { filesOf, type OpenOptions, openUntracked } from '../jobs/images.ts'
import { howFor, openSidecar, sidecarOf, subjectOf } from '../jobs/tracked-disk.ts'
import { renewGuard } from '../jobs/tracking.ts'
import { type Answer, ChangeMap } from '../tracking/change-map.ts'
import { oneByOne } from '../tracking/changed-runs.ts'
import { formatToken, parseToken, type Token } from '../tracking/token.ts'

/** A disk as it is at one moment, and what changed in it up to then. */
export interface BackupSource {
  /** absolute path of the image */
  readonly file: string
  /** reads as the disk did at that moment */
  readonly device: Device
  /** of that moment; undefined: changes are not tracked */
  readonly token: string | undefined
  /** milliseconds since 1970 */
  readonly at: number
  /** what the user should know, in sentences */
  readonly notes: readonly string[]
  /** Tells what changed since a token, at least, or why all of the disk counts. */
  changes(since: string | undefined, visit: (offset: number, length: number) => void): Promise<Answer>
  /** The token of this moment is remembered as that of a consumer. */
  remember(consumer: string): Promise<void>
  /** A range is not going to be read any more. */
  release?(offset: number, length: number): void
  close(): Promise<void>
}

/** What a disk whose changes are not tracked answers. */
const UNTRACKED = 'changes are not tracked'

/** A disk that nobody writes to meanwhile. */
export async function openSource(file: string, options: OpenOptions = {}): Promise<BackupSource> {
  await promised(renewGuard(file, options))
  const chain = await promised(openUntracked(file, { ...options, writable: false }))
  try {
    const notes = [...chain.notes]
    const map = await openMap(file, chain, options, notes)
    try {
      const token = map && (await promised(map.checkpoint()))
      return new Still(filesOf(options).realPath(file), chain, map, token, notes)
    } catch (error) {
      if (map) await promised(map.close())
      throw error
    }
  } catch (error) {
    await promised(chain.close())
    throw error
  }
}

async function openMap(
  file: string,
  chain: Chain,
  options: OpenOptions,
  notes: string[],
): Promise<ChangeMap | undefined> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  if (!files.look(sidecar)) return undefined
  try {
    const store = openSidecar(files, sidecar, 'write', options)
    try {
      return await promised(ChangeMap.open(subjectOf(chain, undefined), { ...howFor(chain, files, sidecar), store }))
    } catch (error) {
      store.close()
      throw error
    }
  } catch (error) {
    // What cannot be read, or not be marked, tells nobody anything, so nothing wrong either.
    if (!isVdiskError(error) || error.code === 'IN_USE') throw error
    notes.push(`all of the disk is read, since what is known of its changes cannot be used: ${error.message}`)
    return undefined
  }
}

class Still implements BackupSource {
  readonly file: string
  readonly device: Chain
  readonly token: string | undefined
  readonly at = Date.now()
  readonly notes: readonly string[]
  private readonly map: ChangeMap | undefined
  private readonly now: Token | undefined

  constructor(
    file: string,
    device: Chain,
    map: ChangeMap | undefined,
    now: Token | undefined,
    notes: readonly string[],
  ) {
    this.file = file
    this.device = device
    this.map = map
    this.now = now
    this.token = now && formatToken(now)
    this.notes = notes
  }

  async changes(since: string | undefined, visit: (offset: number, length: number) => void): Promise<Answer> {
    return await changesOf(this.map, this.device.size, since, visit)
  }

  async remember(consumer: string): Promise<void> {
    if (this.map && this.now) await promised(this.map.remember(consumer, this.now))
  }

  async close(): Promise<void> {
    try {
      if (this.map) await promised(this.map.close())
    } finally {
      await promised(this.device.close())
    }
  }
}

/** What a change map, if there is one, says. */
export async function changesOf(
  map: ChangeMap | undefined,
  size: number,
  since: string | undefined,
  visit: (offset: number, length: number) => void,
): Promise<Answer> {
  if (map) return await promised(map.changes(since === undefined ? undefined : parseToken(since), oneByOne(visit)))
  if (size > 0) visit(0, size)
  return { full: UNTRACKED, size, granularity: size }
}
