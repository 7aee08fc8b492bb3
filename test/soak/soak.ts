import fs from 'node:fs'
import path from 'node:path'
import { type Mounted, startDaemon, unmountAt } from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { checkImage, createDisk, finish, messageOf, openDisk } from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { Random } from '../support/random.ts'
import { describeOperation } from './operations.ts'
import { Region } from './region.ts'
import { diskOf, type Entry, playRound, recipeFor, SoakMismatch } from './round.ts'
import { TrackedMoments } from './tracked-moments.ts'

const MIB = 1 << 20
const SIZE = 24 * MIB
/** Where the regions of the programs begin: on pages, and on no cluster. */
const BORDERS = [0, 8 * MIB + 4096, 16 * MIB - 3 * 4096, SIZE]

export const SOAK_FORMATS = ['qcow2', 'vhdx', 'raw'] as const

export interface SoakOptions {
  readonly format: (typeof SOAK_FORMATS)[number]
  /** it stops after the round in which they have passed */
  readonly seconds: number
  readonly seed: number
  /** the server's program */
  readonly entry: string
  /** operations.py */
  readonly program: string
  /** empty; what is in it after a failure belongs to that */
  readonly folder: string
}

export interface SoakResult {
  readonly rounds: number
  readonly kills: number
  readonly operations: number
}

/**
 * Uses a mounted disk and kills its server, round after round.
 *
 * After each kill the image must be sound (leaks are no damage), everything that was made durable must be there, and
 * every other sector must have a content that it had since. qcow2 and VHDX are children of a base that holds data, so
 * that first writes have to copy. Its changes are tracked: since each of some moments, all that differs must be told.
 *
 * @throws Error that tells the least operations that lead there, and where image and log are
 */
export async function soak(options: SoakOptions): Promise<SoakResult> {
  const image = await makeImage(options)
  const mountpoint = path.join(options.folder, 'mnt')
  fs.mkdirSync(mountpoint)
  const content = await contentOf(image, options.format)
  const tracked = await TrackedMoments.begin(image, options.format, content)
  const flat = options.format === 'raw'
  const regions = BORDERS.slice(0, -1).map(
    (start, i) => new Region(start, content.subarray(start, BORDERS[i + 1]), flat),
  )
  const random = new Random(options.seed)
  const end = Date.now() + options.seconds * 1000
  const result = { rounds: 0, kills: 0, operations: 0 }
  let entries: Entry[] = []
  try {
    do {
      const mounted = await startDaemon({ images: [image], mountpoint, format: options.format }, options.entry)
      if (result.rounds > 0) {
        judgeAll(regions, await fs.promises.readFile(diskOf(mounted)))
        entries = []
      }
      const killAfter = random.chance(0.8) ? random.below(6) : undefined
      const operations = 5 + random.below(150)
      await playRound(mounted, { program: options.program, regions, random, entries, operations, killAfter })
      await endRound(mounted, regions, killAfter === undefined ? 'durable' : 'died')
      await assertSound(image, options.format)
      await tracked.judge(await contentOf(image, options.format), killAfter !== undefined)
      result.rounds++
      result.operations += entries.length
      if (killAfter !== undefined) result.kills++
    } while (Date.now() < end)
    judgeAll(regions, await contentOf(image, options.format))
    return result
  } catch (error) {
    throw new Error(tellFailure(error, { ...options, regions, entries, rounds: result.rounds }), { cause: error })
  } finally {
    if (mountedAt(mountpoint)) await unmountAt(mountpoint).catch(() => {})
  }
}

/** The mount goes, as a user would do it, be it dead or alive. */
async function endRound({ mountpoint }: Mounted, regions: readonly Region[], wanted: string): Promise<void> {
  const { ended } = await unmountAt(mountpoint)
  if (ended !== wanted) throw new Error(`the mount ended as '${ended}', not '${wanted}'`)
  if (mountedAt(mountpoint)) throw new Error('the mount is still there')
  // What is unmounted well is durable to the last byte.
  if (ended === 'durable') for (const region of regions) region.settle()
}

function judgeAll(regions: readonly Region[], disk: Uint8Array): void {
  for (const region of regions) {
    const mismatch = region.judgeAfterKill(disk.subarray(region.offset, region.offset + region.length))
    if (mismatch) throw new SoakMismatch(mismatch)
  }
}

async function makeImage({ folder, format }: SoakOptions): Promise<string> {
  const options = format === 'vhdx' ? { block_size: '1M' } : {}
  const base = path.join(folder, `base.${format}`)
  {
    await using disk = await createDisk(base, { format, size: SIZE, options })
    for (let offset = 0; offset < SIZE; offset += 2 * MIB) {
      await disk.write(offset, patternFor(offset, MIB + 12_345, 1 + offset / MIB))
    }
  }
  if (format === 'raw') return base
  const child = path.join(folder, `child.${format}`)
  await (await createDisk(child, { format, parent: base, options })).close()
  return child
}

async function contentOf(image: string, format: string): Promise<Uint8Array> {
  await using disk = await openDisk(image, { format })
  const content = new Uint8Array(disk.size)
  await disk.read(0, content)
  return content
}

async function assertSound(image: string, format: string): Promise<void> {
  if (format === 'raw') return
  const { findings } = await finish(checkImage(image, { chain: true }))
  const damage = findings.filter(({ severity }) => severity === 'error')
  if (damage.length > 0) throw new Error(`the image is damaged: ${damage.map(({ message }) => message).join('; ')}`)
}

function tellFailure(
  error: unknown,
  run: SoakOptions & { regions: readonly Region[]; entries: readonly Entry[]; rounds: number },
): string {
  const log = path.join(run.folder, 'operations.log')
  const lines = run.entries.map((entry) => `${entry.worker}: ${describeOperation(entry.operation)}: ${entry.outcome}`)
  fs.writeFileSync(log, `${lines.join('\n')}\n`)
  const told = [`soak of ${run.format}, seed ${run.seed}, round ${run.rounds + 1}: ${messageOf(error)}`]
  if (error instanceof SoakMismatch) {
    const { offset } = error.mismatch
    const recipe = recipeFor(offset, run.regions, run.entries)
    told.push(`at byte ${offset} of the disk. What was done to its sector since it was compared last:`)
    told.push(...recipe.map((line) => `  ${line}`))
  }
  told.push(`All ${lines.length} operations of the round: ${log}; the image is beside it.`)
  told.push(`Repeat with: npm run soak -- --format ${run.format} --seed ${run.seed}`)
  return told.join('\n')
}
