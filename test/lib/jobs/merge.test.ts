import fs from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import {
  createDisk,
  finish,
  inspectChain,
  inspectImage,
  type MergeOptions,
  mergeImage,
  type OpenOptions,
  openDisk,
  planMerge,
  relink,
  VdiskError,
} from '../../../lib/index.ts'
import { HostFile } from '../../../lib/io/host-file.ts'
import { patternFor } from '../../model/history.ts'
import { refusal } from '../../support/refusal.ts'
import { tempFolder } from '../../support/temp.ts'

const root = tempFolder('merge')
const MIB = 1 << 20
let number = 0

/** A folder with a chain of four: base, a, b, c; each holds something of its own, zeros among it. */
async function chain(
  baseFormat = 'qcow2',
  format = 'qcow2',
): Promise<{ at: (name: string) => string; content: Buffer }> {
  const folder = path.join(root, String(number++))
  fs.mkdirSync(folder)
  const at = (name: string): string => path.join(folder, name)
  let parent: string | undefined
  for (const [i, name] of ['base', `a.${format}`, `b.${format}`, `c.${format}`].entries()) {
    const own = i === 0 ? baseFormat : format
    const parentFormat = i === 1 ? baseFormat : undefined
    await using disk = await createDisk(at(name), { format: own, size: 4 * MIB, parent, parentFormat })
    await disk.write(i * 300_000, patternFor(i * 300_000, 700_000, 10 + i))
    if (i > 0) await disk.erase(i * 500_000, 200_000)
    parent = at(name)
  }
  return { at, content: await contentOf(at(`c.${format}`)) }
}

async function contentOf(file: string, format?: string, options: OpenOptions = {}): Promise<Buffer> {
  await using disk = await openDisk(file, { ...options, format })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

const merge = (file: string, options: MergeOptions = {}): Promise<unknown> => finish(mergeImage(file, options))

describe('merging', () => {
  test.each([
    ['qcow2', 'qcow2'],
    ['vhdx', 'vhdx'],
    ['qcow2', 'vhdx'],
    ['vhdx', 'qcow2'],
    ['raw', 'qcow2'],
    ['raw', 'vhdx'],
  ])('%s: a %s layer that holds nothing of its own can still be opened afterwards', async (below, format) => {
    const folder = path.join(root, String(number++))
    fs.mkdirSync(folder)
    const [base, child] = [path.join(folder, 'base'), path.join(folder, 'child')]
    {
      await using disk = await createDisk(base, { format: below, size: 2 * MIB })
      await disk.write(5000, patternFor(5000, 3000, 7))
    }
    await (await createDisk(child, { format, parent: base, parentFormat: below })).close()
    await merge(child, { parentFormat: below })
    expect((await contentOf(child)).equals(await contentOf(base, below))).toBe(true)
    // And who the base is from then on is known too.
    expect((await inspectChain(child)).at(-1)?.link?.level).not.toBe('mismatch')
  })

  test('an image built upon another state of the merged one is not quietly pointed at the result', async () => {
    const { at } = await chain()
    {
      await using disk = await openDisk(at('a.qcow2'), { writable: true })
      await disk.write(0, Buffer.alloc(100, 0xee))
    }
    const error = await refusal(() => merge(at('a.qcow2')))
    expect([error.code, error.message]).toEqual(['PARENT_MISMATCH', expect.stringContaining('b.qcow2')])
  })

  test.each(['raw', 'qcow2'])(
    'an ancestor (%s) that changes while the merge is planned is left alone',
    async (format) => {
      const { at } = await chain(format)
      let changed = false
      // The plan is made under way: the links have been judged, and nothing is locked yet.
      const signal = Object.defineProperty(new AbortController().signal, 'aborted', {
        get() {
          if (changed) return false
          changed = true
          const fd = fs.openSync(at('base'), 'r+')
          fs.writeSync(fd, Buffer.alloc(100, 0xee), 0, 100, 2 * MIB)
          fs.closeSync(fd)
          return false
        },
      })
      const error = await refusal(() => merge(at('a.qcow2'), { signal, force: false, parentFormat: format }))
      expect([changed, error.code]).toEqual([true, 'PARENT_MISMATCH'])
      expect((await inspectImage(at('a.qcow2'))).parent?.merging).toBe(false)
    },
  )

  test('the top into its parent: the parent reads as the chain did', async () => {
    const { at, content } = await chain()
    await merge(at('c.qcow2'), { compare: true })
    expect((await contentOf(at('b.qcow2'))).equals(content)).toBe(true)
    expect((await inspectChain(at('b.qcow2'))).map(({ link }) => link?.level)).toEqual([
      undefined,
      'verified',
      'verified',
    ])
  })

  test.each(['qcow2', 'raw'])('all layers into a %s base', async (format) => {
    const { at, content } = await chain(format)
    await merge(at('c.qcow2'), { into: at('base') })
    expect((await contentOf(at('base'), format)).equals(content)).toBe(true)
  })

  test('a layer in the middle: what is above goes on upon its parent, verified', async () => {
    const { at, content } = await chain()
    const plan = await planMerge(at('b.qcow2'))
    expect(plan).toMatchObject({ into: at('a.qcow2'), merged: [at('b.qcow2')], repointed: [at('c.qcow2')], broken: [] })
    await merge(at('b.qcow2'))
    const layers = await inspectChain(at('c.qcow2'))
    expect(layers.map(({ name }) => path.basename(name))).toEqual(['base', 'a.qcow2', 'c.qcow2'])
    expect(layers.every(({ link }) => link === undefined || link.level === 'verified')).toBe(true)
    expect((await contentOf(at('c.qcow2'))).equals(content)).toBe(true)
  })

  test('merged files say what they were merged into, and are not written any more', async () => {
    const { at } = await chain()
    await merge(at('c.qcow2'), { into: at('a.qcow2') })
    for (const name of ['b.qcow2', 'c.qcow2']) {
      expect((await inspectImage(at(name))).merged?.into).toBe('a.qcow2')
    }
    const history = await openDisk(at('c.qcow2'))
    await history.close()
    expect(history.notes.some((note) => note.includes('was merged into a.qcow2'))).toBe(true)
    const error = await refusal(() => openDisk(at('c.qcow2'), { writable: true }))
    expect([error.code, error.message]).toEqual(['REFUSED', expect.stringContaining('merged into a.qcow2')])
  })

  test('what is history is not merged again: the ancestor has gone on without it', async () => {
    const { at } = await chain()
    await merge(at('c.qcow2'), { into: at('base') })
    {
      await using disk = await openDisk(at('base'), { writable: true })
      await disk.write(0, patternFor(0, 700_000, 99))
    }
    await relink(at('a.qcow2'), at('base'), { acceptModified: true })
    const before = await contentOf(at('base'))
    for (const name of ['a.qcow2', 'b.qcow2', 'c.qcow2']) {
      for (const force of [false, true]) {
        const error = await refusal(() => merge(at(name), { into: at('base'), force }))
        expect([error.code, error.message]).toEqual(['REFUSED', expect.stringContaining('was merged before')])
      }
    }
    expect((await contentOf(at('base'))).equals(before)).toBe(true)
  })

  test('a layer that was merged with those above it is not merged alone afterwards', async () => {
    const { at, content } = await chain()
    await merge(at('c.qcow2'), { into: at('base') })
    expect((await refusal(() => merge(at('a.qcow2')))).message).toContain('was merged before')
    expect((await contentOf(at('base'))).equals(content)).toBe(true)
    // The same merge once more changes nothing.
    await merge(at('c.qcow2'), { into: at('base') })
    expect((await contentOf(at('base'))).equals(content)).toBe(true)
  })

  test('where it changes no content, another child of the ancestor is no obstacle', async () => {
    const { at, content } = await chain()
    await (await createDisk(at('empty.qcow2'), { format: 'qcow2', parent: at('c.qcow2') })).close()
    await (await createDisk(at('other.qcow2'), { format: 'qcow2', parent: at('c.qcow2') })).close()
    expect(await planMerge(at('empty.qcow2'))).toMatchObject({ complete: true, broken: [], bytes: 0 })
    await merge(at('empty.qcow2'), { delete: true })
    expect((await contentOf(at('other.qcow2'))).equals(content)).toBe(true)
    expect((await inspectChain(at('other.qcow2'))).at(-1)?.link?.level).toBe('verified')
  })

  test('with delete the merged files are gone', async () => {
    const { at, content } = await chain()
    // Of no use to anybody but the file beside which it lies.
    fs.writeFileSync(at('b.qcow2.vdisk-undo'), '')
    await merge(at('c.qcow2'), { into: at('base'), delete: true })
    expect(fs.readdirSync(path.dirname(at('x')))).toEqual(['base'])
    expect((await contentOf(at('base'))).equals(content)).toBe(true)
  })

  test('another child of a file that changes is named, and nothing happens', async () => {
    const { at } = await chain()
    await (await createDisk(at('other.qcow2'), { format: 'qcow2', parent: at('b.qcow2') })).close()
    const before = await contentOf(at('other.qcow2'))
    const error = await refusal(() => merge(at('c.qcow2')))
    expect(error.code).toBe('REFUSED')
    expect(error.message).toContain('other.qcow2')
    expect((await contentOf(at('other.qcow2'))).equals(before)).toBe(true)
    await merge(at('c.qcow2'), { force: true })
    expect((await refusal(() => openDisk(at('other.qcow2')))).code).toBe('PARENT_MISMATCH')
  })

  test('a link that is not sound stops it', async () => {
    const { at } = await chain()
    {
      await using disk = await openDisk(at('b.qcow2'), { writable: true })
      await disk.write(0, Buffer.from([1]))
    }
    const error = await refusal(() => merge(at('c.qcow2')))
    expect(error.code).toBe('PARENT_MISMATCH')
    expect(error.where.structure).toBe('parent link')
  })

  test('into what is no ancestor is refused, with the ancestors named', async () => {
    const { at } = await chain()
    await (await createDisk(at('stranger.qcow2'), { format: 'qcow2', size: MIB })).close()
    const error = await refusal(() => merge(at('c.qcow2'), { into: at('stranger.qcow2') }))
    expect(error.code).toBe('REFUSED')
    expect(error.advice).toContain('a.qcow2')
  })

  test.each([
    ['longer', 6 * MIB],
    ['shorter', 3 * MIB + 512],
  ])('a %s child gives its size to the parent', async (_, size) => {
    const folder = path.join(root, String(number++))
    fs.mkdirSync(folder)
    const [base, top] = [path.join(folder, 'base.qcow2'), path.join(folder, 'top.qcow2')]
    {
      await using disk = await createDisk(base, { format: 'qcow2', size: 4 * MIB })
      await disk.write(0, patternFor(0, 4 * MIB, 5))
    }
    {
      await using disk = await createDisk(top, { format: 'qcow2', size, parent: base })
      await disk.write(size - 1000, patternFor(0, 1000, 77))
    }
    const content = await contentOf(top)
    await merge(top)
    expect((await contentOf(base)).equals(content)).toBe(true)
  })

  test('cancelled in the middle, the chain is whole and the merge can be run again', async () => {
    const { at, content } = await chain()
    const abort = new AbortController()
    const job = mergeImage(at('c.qcow2'), { signal: abort.signal })
    abort.abort()
    expect((await refusal(() => finish(job))).code).toBe('CANCELLED')
    expect((await contentOf(at('c.qcow2'))).equals(content)).toBe(true)
    await merge(at('c.qcow2'))
    expect((await contentOf(at('b.qcow2'))).equals(content)).toBe(true)
  })
})

describe('relinking', () => {
  test.each(['vdi', 'vhd', 'qcow2'])(
    'layers (%s) whose parents are known by a sample of all that is below: while it is merged and afterwards',
    async (format) => {
      const { at, content } = await chain('raw', format)
      const [a, b, c] = ['a', 'b', 'c'].map((name) => at(`${name}.${format}`)) as [string, string, string]
      // The times of the files leave it open then whether they were written to: the samples are compared.
      for (const name of fs.readdirSync(path.dirname(a))) fs.chmodSync(at(name), 0o600)
      const steps = mergeImage(c, { into: at('base'), parentFormat: 'raw' })
      try {
        let step = await steps.next()
        while (!step.done && step.value.done !== step.value.total) step = await steps.next()
        // Now the base has the content; whoever is killed here would have left this.
        expect(step.done).toBe(false)
        expect((await contentOf(at('base'), 'raw', { locking: false })).equals(content)).toBe(true)
        expect((await contentOf(c, undefined, { locking: false })).equals(content)).toBe(true)
      } finally {
        await finish(steps)
      }
      for (const name of [c, b, a]) {
        const levels = (await inspectChain(name)).map(({ link }) => link?.level)
        expect(levels).not.toContain('mismatch')
      }
      expect((await contentOf(c)).equals(content)).toBe(true)
      expect((await contentOf(at('base'), 'raw')).equals(content)).toBe(true)
    },
  )

  test('a parent that was moved is found right, whatever it is called now', async () => {
    const { at, content } = await chain()
    fs.renameSync(at('b.qcow2'), at('moved.qcow2'))
    expect((await refusal(() => openDisk(at('c.qcow2')))).code).toBe('PARENT_MISSING')
    expect((await relink(at('c.qcow2'), at('moved.qcow2'))).verdict.level).toBe('verified')
    expect((await contentOf(at('c.qcow2'))).equals(content)).toBe(true)
  })

  test('another disk is not taken for the parent, unless the user insists; then both are on record', async () => {
    const { at } = await chain()
    await (await createDisk(at('stranger.qcow2'), { format: 'qcow2', size: 4 * MIB })).close()
    const error = await refusal(() => relink(at('c.qcow2'), at('stranger.qcow2')))
    expect(error.code).toBe('PARENT_MISMATCH')
    expect(error.advice).toContain('--accept-modified')
    const before = (await inspectImage(at('c.qcow2'))).parent?.expects
    const { replaced } = await relink(at('c.qcow2'), at('stranger.qcow2'), { acceptModified: true })
    expect([replaced]).toEqual(before)
    expect((await inspectImage(at('c.qcow2'))).parent?.replaced).toBe(replaced)
    expect((await inspectChain(at('c.qcow2'))).at(-1)?.link?.level).toBe('verified')
  })

  test('upon itself, over whatever way, is refused', async () => {
    const { at } = await chain()
    expect((await refusal(() => relink(at('b.qcow2'), at('c.qcow2'), { acceptModified: true }))).code).toBe(
      'CHAIN_CYCLE',
    )
  })

  test('an image without a parent is no child', async () => {
    const { at } = await chain()
    expect((await refusal(() => relink(at('base'), at('a.qcow2')))).code).toBe('REFUSED')
  })
})

describe('a layer that cannot be closed', () => {
  afterEach(() => vi.restoreAllMocks())

  test.runIf(fs.existsSync('/proc/self/fd'))('keeps no other file of the merge open', async () => {
    const { at, content } = await chain()
    const { close } = HostFile.prototype
    let failures = 0
    const job = mergeImage(at('c.qcow2'), { into: at('base') })
    const merging = finish(job, ({ phase }) => {
      if (phase !== 'merge' || failures > 0) return
      vi.spyOn(HostFile.prototype, 'close').mockImplementation(function (this: HostFile) {
        close.call(this)
        if (this.name.endsWith('a.qcow2') && failures++ === 0) {
          throw new VdiskError('IO', { message: 'Cannot close it: a test says so' })
        }
      })
    })
    await expect(merging).rejects.toMatchObject({ code: 'IO' })
    expect(failures).toBe(1)
    const open = fs.readdirSync('/proc/self/fd').flatMap((fd) => linkOf(`/proc/self/fd/${fd}`) ?? [])
    expect(open.filter((file) => file.startsWith(root))).toEqual([])
    vi.restoreAllMocks()
    expect((await contentOf(at('c.qcow2'))).equals(content)).toBe(true)
  })
})

function linkOf(file: string): string | undefined {
  try {
    return fs.readlinkSync(file)
  } catch {
    return undefined
  }
}
