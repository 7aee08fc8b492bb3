import type { Chain } from '../chain/chain.ts'
import type { Device } from '../contracts/device.ts'
import { isVdiskError } from '../errors.ts'
import { type Io, promised, settle } from '../io/io.ts'
import { filesOf, type OpenOptions, openUntracked } from '../jobs/images.ts'
import { howFor, openSidecar, sidecarOf, subjectOf } from '../jobs/tracked-disk.ts'
import { renewGuard } from '../jobs/tracking.ts'
import { type Answer, ChangeMap } from '../tracking/change-map.ts'
import { oneByOne } from '../tracking/changed-runs.ts'
import { formatToken, parseToken, type Token } from '../tracking/token.ts'

/** A disk as it is at one moment, to compare a backup with. */
export interface SeenDisk {
  /** reads as the disk did at that moment */
  readonly device: Device
  /** what the user should know, in sentences */
  readonly notes: readonly string[]
  /** Tells what changed since a token, at least, or why all of the disk counts. */
  changes(since: string | undefined, visit: (offset: number, length: number) => void): Promise<Answer>
  close(): Promise<void>
}

/** A disk as it is at one moment, and what changed in it up to then. */
export interface BackupSource extends SeenDisk {
  /** absolute path of the image */
  readonly file: string
  /** of that moment; undefined: changes are not tracked */
  readonly token: string | undefined
  /** milliseconds since 1970 */
  readonly at: number
  /** The token of this moment is remembered as that of a consumer. */
  remember(consumer: string): Promise<void>
  /** A range is not going to be read any more. */
  release?(offset: number, length: number): void
}

/** What a disk whose changes are not tracked answers. */
const UNTRACKED = 'changes are not tracked'

/** A disk that nobody writes to meanwhile. Its record of changes gets a checkpoint. */
export async function openSource(file: string, options: OpenOptions = {}): Promise<BackupSource> {
  await promised(renewGuard(file, options))
  return await opened(file, options, async (chain, notes) => {
    const record = await openRecord(file, chain, { ...options, access: 'write' }, notes)
    try {
      const token = record && (await promised(record.map.checkpoint()))
      return new Still(filesOf(options).realPath(file), chain, record, token, notes)
    } catch (error) {
      if (record) await promised(record.close())
      throw error
    }
  })
}

/** A disk that nobody writes to meanwhile, to look at: neither the image nor its record of changes is written. */
export async function seeDisk(file: string, options: OpenOptions = {}): Promise<SeenDisk> {
  return await opened(file, options, async (chain, notes) => {
    const record = await openRecord(file, chain, { ...options, access: 'read' }, notes)
    return new Still(filesOf(options).realPath(file), chain, record, undefined, notes)
  })
}

async function opened(
  file: string,
  options: OpenOptions,
  make: (chain: Chain, notes: string[]) => Promise<Still>,
): Promise<Still> {
  const chain = await promised(openUntracked(file, { ...options, writable: false }))
  try {
    return await make(chain, [...chain.notes])
  } catch (error) {
    await promised(chain.close())
    throw error
  }
}

/** The record of changes of a disk. */
interface OpenRecord {
  readonly map: ChangeMap
  close(): Io<void>
}

async function openRecord(
  file: string,
  chain: Chain,
  options: OpenOptions & { readonly access: 'read' | 'write' },
  notes: string[],
): Promise<OpenRecord | undefined> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  if (!files.look(sidecar)) return undefined
  try {
    const store = openSidecar(files, sidecar, options.access, options)
    try {
      const how = { ...howFor(chain, files, sidecar), store }
      const subject = subjectOf(chain, undefined)
      const map = await promised(
        options.access === 'write' ? ChangeMap.open(subject, how) : ChangeMap.view(subject, how),
      )
      return { map, close: () => (options.access === 'write' ? map.close() : settle(store.close())) }
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
  private readonly record: OpenRecord | undefined
  private readonly now: Token | undefined

  constructor(
    file: string,
    device: Chain,
    record: OpenRecord | undefined,
    now: Token | undefined,
    notes: readonly string[],
  ) {
    this.file = file
    this.device = device
    this.record = record
    this.now = now
    this.token = now && formatToken(now)
    this.notes = notes
  }

  async changes(since: string | undefined, visit: (offset: number, length: number) => void): Promise<Answer> {
    return await changesOf(this.record?.map, this.device.size, since, visit)
  }

  async remember(consumer: string): Promise<void> {
    if (this.record && this.now) await promised(this.record.map.remember(consumer, this.now))
  }

  async close(): Promise<void> {
    try {
      if (this.record) await promised(this.record.close())
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
