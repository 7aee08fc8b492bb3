import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { convertDisk, createDisk, finish, openDisk } from '../../../lib/index.ts'
import { randomSubset } from '../../crash/choices.ts'
import { CrashFolder } from '../../crash/crash-folder.ts'
import { CrashStates, type Kept, pendingAt } from '../../crash/crash-state.ts'
import { inFolder } from '../../crash/job-operations.ts'
import { patternFor } from '../../model/history.ts'
import { printSeed, type Random, randomFor } from '../../support/random.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const FOLDER = '/d'
const SIZE = 160 << 10
const SOURCE = `${FOLDER}/a.vmdk`
const RESULT = `${FOLDER}/b.vmdk`
/** Somebody's file, called as a part of the image could be. */
const BYSTANDER = `${FOLDER}/b-notes.vmdk`
const CONTENT = patternFor(0, SIZE, 7)

const PIECES = { subformat: 'twoGbMaxExtentSparse', extent_size: '64K', grain_size: '4K' }
const FLAT = { subformat: 'twoGbMaxExtentFlat', extent_size: '64K' }
const DELTA = { subformat: 'vmfsSparse' }

/** A disk to convert, and besides what the result is to take the place of. */
async function begin(replaced: Readonly<Record<string, string>> | undefined): Promise<CrashFolder> {
  const folder = new CrashFolder()
  folder.made(BYSTANDER).write(0, Buffer.from('mine'))
  {
    await using disk = await createDisk(SOURCE, { ...inFolder(folder), format: 'vmdk', size: SIZE })
    await disk.write(0, CONTENT)
  }
  if (replaced) {
    await (await createDisk(RESULT, { ...inFolder(folder), format: 'vmdk', size: SIZE, options: replaced })).close()
  }
  return new CrashFolder(folder.medium)
}

async function convert(folder: CrashFolder, options: Readonly<Record<string, string>>): Promise<void> {
  await using source = await openDisk(SOURCE, inFolder(folder))
  await finish(convertDisk(source.chain, RESULT, { ...inFolder(folder), format: 'vmdk', options, replace: true }))
}

async function bytesOf(folder: CrashFolder, file: string): Promise<Buffer> {
  await using disk = await openDisk(file, inFolder(folder))
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

/** Each crash of a conversion, and then the same conversion once more. */
async function atEachCut(
  options: Readonly<Record<string, string>>,
  replaced: Readonly<Record<string, string>> | undefined,
  keptOf: (log: CrashFolder['log'], end: number) => readonly Kept[],
): Promise<number> {
  const start = await begin(replaced)
  const played = new CrashFolder(start.medium)
  await convert(played, options)
  const states = new CrashStates(start.medium, played.log, 512)
  let renamed = false
  for (let end = 0; end <= played.log.length; end++) {
    const folder = new CrashFolder(states.after({ end, kept: keptOf(played.log, end) }).medium)
    if (folder.has(RESULT)) {
      const found = await bytesOf(folder, RESULT)
      const isNew = found.equals(Buffer.from(CONTENT))
      expect(isNew || (replaced !== undefined && found.every((byte) => byte === 0)), `a whole disk after ${end}`).toBe(
        true,
      )
      renamed ||= isNew
    }
    await convert(folder, options)
    expect((await bytesOf(folder, RESULT)).equals(Buffer.from(CONTENT)), `done again after ${end}`).toBe(true)
    const names = [...folder.medium.names.keys()]
    expect(names.filter((name) => /\.partial/.test(name))).toEqual([])
    if (!replaced && !renamed) expect(names.sort()).toEqual([...played.medium.names.keys()].sort())
    const mine = Buffer.alloc(4)
    folder.store(BYSTANDER, 'read').read(0, mine)
    expect(mine.toString()).toBe('mine')
  }
  expect(renamed).toBe(true)
  return played.log.length
}

const CASES = [
  ['pieces', PIECES, undefined],
  ['flat pieces', FLAT, undefined],
  ['a delta of ESX', DELTA, undefined],
  ['pieces, in the place of others', PIECES, FLAT],
] as const

describe('a conversion to several files', () => {
  test.each(CASES)('that is killed at any step is simply done again: %s', async (_, options, replaced) => {
    const all = (log: CrashFolder['log'], end: number): Kept[] => pendingAt(log, end).map((index) => ({ index }))
    expect(await atEachCut(options, replaced, all)).toBeGreaterThan(20)
  })

  test.each(CASES)('likewise when the power fails: %s', async (name, options, replaced) => {
    const random: Random = randomFor(name)
    const kinds = ['none', 'some'] as const
    for (const kind of kinds) {
      await atEachCut(options, replaced, (log, end) => {
        const pending = pendingAt(log, end).map((index) => ({ index }))
        return kind === 'none' ? [] : randomSubset(log, pending, 512, random)
      })
    }
  })

  test("is stopped by files that are somebody else's, whatever a note says of others", async () => {
    const folder = scratchFolder()
    const at = (name: string): string => path.join(folder, name)
    await (await createDisk(at('a.vmdk'), { format: 'vmdk', size: SIZE })).close()
    fs.writeFileSync(at('precious'), 'mine')
    fs.writeFileSync(at('other-s001.vmdk'), 'mine')
    fs.mkdirSync(at('b-folder'))
    fs.writeFileSync(at('b.vmdk.partial'), '')
    const first = 'Files of an image that vdisk is making. If no vdisk is at work on it, they can go, and this too.'
    const names = [
      'precious',
      '../precious',
      `${at('precious')}`,
      'other-s001.vmdk',
      'b-folder',
      'b-/../precious',
      'b-torn',
    ]
    fs.writeFileSync(at('b-torn'), 'mine')
    fs.writeFileSync(at('b.vmdk.partial.files'), `${first}\n${names.join('\n')}`)
    await using source = await openDisk(at('a.vmdk'))
    await finish(convertDisk(source.chain, at('b.vmdk'), { format: 'vmdk', options: PIECES }))
    for (const name of ['precious', 'other-s001.vmdk', 'b-torn']) expect(fs.readFileSync(at(name), 'utf8')).toBe('mine')
    expect(fs.existsSync(at('b-folder'))).toBe(true)
    expect(fs.existsSync(at('b.vmdk.partial.files'))).toBe(false)
  })

  test('forgets a note whose image was completed', async () => {
    const folder = scratchFolder()
    const at = (name: string): string => path.join(folder, name)
    await (await createDisk(at('a.vmdk'), { format: 'vmdk', size: SIZE })).close()
    const options = { format: 'vmdk', options: PIECES, replace: true }
    await using source = await openDisk(at('a.vmdk'))
    await finish(convertDisk(source.chain, at('b.vmdk'), options))
    const first = 'Files of an image that vdisk is making. If no vdisk is at work on it, they can go, and this too.'
    fs.writeFileSync(at('b.vmdk.partial.files'), `${first}\nb-s001.vmdk\n`)
    const failing = new AbortController()
    failing.abort()
    await finish(convertDisk(source.chain, at('b.vmdk'), { ...options, signal: failing.signal })).catch(() => {})
    // The image that was there is whole still.
    await using disk = await openDisk(at('b.vmdk'))
    const bytes = Buffer.alloc(SIZE)
    await disk.read(0, bytes)
    expect(fs.existsSync(at('b-s001.vmdk'))).toBe(true)
  })
})
