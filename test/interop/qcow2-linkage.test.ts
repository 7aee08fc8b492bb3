import fs from 'node:fs'
import { expect, test } from 'vitest'
import {
  createDisk,
  createInternalSnapshot,
  createLayer,
  finish,
  inspectChain,
  inspectImage,
  isVdiskError,
  mergeImage,
  openDisk,
  relink,
} from '../../lib/index.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { expectAgreement, expectSameBytes, ourReading, Qemu } from '../support/qemu.ts'
import { scratchFolder } from '../support/temp.ts'

const SIZE = 1 << 20

/** A base, a parent over it, and a child over that: all ours, all with some content. */
async function family(options: Readonly<Record<string, string>> = {}, baseFormat = 'qcow2'): Promise<Qemu> {
  const qemu = new Qemu(scratchFolder())
  await make(qemu, 'base', { format: baseFormat, size: SIZE, options: baseFormat === 'raw' ? {} : options })
  await make(qemu, 'parent', { format: 'qcow2', options, parent: qemu.path('base'), parentFormat: baseFormat })
  await make(qemu, 'child', { format: 'qcow2', options, parent: qemu.path('parent') })
  return qemu
}

async function make(qemu: Qemu, name: string, options: Parameters<typeof createDisk>[1]): Promise<void> {
  await using disk = await createDisk(qemu.path(name), options)
  await disk.write(name.length * 10_000, new Uint8Array(10_000).fill(name.length))
}

async function write(file: string, offset = 0, format?: string): Promise<void> {
  await using disk = await openDisk(file, { writable: true, format })
  await disk.write(offset, new Uint8Array(3000).fill(9))
}

/** Who an image is, by its own words: the disk's UUID, and whether that can be relied on. */
async function identityOf(qemu: Qemu, name: string): Promise<{ uuid: string; value: string; current: boolean }> {
  const { identity } = await inspectImage(qemu.path(name))
  if (!identity) return { uuid: 'none', value: 'none', current: false }
  return { uuid: identity.value.split('/')[0] as string, value: identity.value, current: identity.current }
}

/** The verdict on the link between a layer and the one below it. */
async function linkOf(qemu: Qemu, name: string): Promise<{ level: string; reason: string | undefined }> {
  const link = (await inspectChain(qemu.path(name))).at(-1)?.link
  return { level: link?.level as string, reason: link?.reason }
}

/** What QEMU can do to an image of ours; `reads` are those that open it for reading only. */
const READS: Record<string, (qemu: Qemu) => void> = {
  info: (qemu) => qemu.info('parent'),
  check: (qemu) => qemu.check('parent'),
  map: (qemu) => qemu.img(['map', 'parent']),
  convert: (qemu) => qemu.img(['convert', '-O', 'raw', 'parent', 'copy.raw']),
  'reading by qemu-io': (qemu) => qemu.io('parent', ['read 0 64k'], ['-r', '-f', 'qcow2']),
}

const WRITES: Record<string, (qemu: Qemu) => void> = {
  'opening for writing': (qemu) => qemu.io('parent', ['flush']),
  write: (qemu) => qemu.io('parent', ['write -P 5 10k 4k']),
  discard: (qemu) => qemu.io('parent', ['discard 0 512k']),
  'check -r all': (qemu) => qemu.img(['check', '-q', '-r', 'all', 'parent']),
  'rebase -u': (qemu) => qemu.img(['rebase', '-u', '-b', './base', '-F', formatOf(qemu), 'parent']),
  rebase: (qemu) => {
    qemu.img(['convert', '-O', 'qcow2', 'base', 'other'])
    qemu.img(['rebase', '-b', 'other', '-F', 'qcow2', 'parent'])
  },
  'rebase to nothing': (qemu) => qemu.img(['rebase', '-b', '', 'parent']),
  resize: (qemu) => qemu.img(['resize', '-q', 'parent', '+1M']),
  'snapshot -c': (qemu) => qemu.img(['snapshot', '-c', 'x', 'parent']),
  'snapshot -c, -a and -d': (qemu) => {
    for (const flag of ['-c', '-a', '-d']) qemu.img(['snapshot', flag, 'x', 'parent'])
  },
  'commit into it': (qemu) => qemu.img(['commit', '-q', 'child']),
  'commit from it': (qemu) => qemu.img(['commit', '-q', 'parent']),
}

const WRITES_V3: Record<string, (qemu: Qemu) => void> = {
  'amend lazy_refcounts': (qemu) => qemu.img(['amend', '-o', 'lazy_refcounts=on', 'parent']),
  'bitmap --add': (qemu) => qemu.img(['bitmap', '--add', 'parent', 'x']),
}

function formatOf(qemu: Qemu): string {
  return qemu.info('base').format as string
}

const KINDS: readonly [string, Record<string, string>][] = [
  ['version 3', {}],
  ['version 2', { compat: '0.10' }],
  ['clusters of 512 bytes', { cluster_size: '512' }],
]

describeWithPeers(['qemu-img', 'qemu-io'], 'what QEMU does with an image of ours', () => {
  for (const [kind, options] of KINDS) {
    test.each(Object.entries(READS))(`${kind}: %s changes no byte, and the link stays verified`, async (_, work) => {
      const qemu = await family(options)
      const before = fs.readFileSync(qemu.path('parent'))
      const { current } = await identityOf(qemu, 'parent')
      work(qemu)
      expect(current).toBe(true)
      expect(fs.readFileSync(qemu.path('parent')).equals(before)).toBe(true)
      expect(await linkOf(qemu, 'child')).toEqual({ level: 'verified', reason: undefined })
    })

    const writes = { ...WRITES, ...(options.compat === undefined ? WRITES_V3 : {}) }
    test.each(Object.entries(writes))(`${kind}: %s keeps the extension, and is noticed`, async (title, work) => {
      const qemu = await family(options)
      const before = await identityOf(qemu, 'parent')
      expect(await linkOf(qemu, 'child')).toEqual({ level: 'verified', reason: undefined })
      work(qemu)
      const after = await identityOf(qemu, 'parent')
      expect(after.value).toBe(before.value)
      // Version 2 has no bit to clear; opening without a write leaves no trace, and changes nothing.
      const silent = options.compat !== undefined && fs.readFileSync(qemu.path('parent')) && SILENT_V2.has(title)
      expect(after.current).toBe(silent)
      expect((await linkOf(qemu, 'child')).level).toBe(silent ? 'verified' : 'mismatch')
      if (silent) return
      const error = await openDisk(qemu.path('child')).catch((thrown: unknown) => thrown)
      expect(isVdiskError(error, 'PARENT_MISMATCH')).toBe(true)
      await expectLifeGoesOn(qemu)
    })
  }
})

/** Work that writes nothing in version 2: it has no autoclear bit to clear, nor a discard over a parent. */
const SILENT_V2 = new Set(['opening for writing', 'check -r all', 'discard'])

/** The user accepts the parent as it is now; then it is written by us, and QEMU still takes all of it. */
async function expectLifeGoesOn(qemu: Qemu): Promise<void> {
  // A rebase, or a commit, leaves the parent with another base than the one it was linked to: that is for the user too.
  const [below] = (await inspectImage(qemu.path('parent'))).parent?.references ?? []
  const relinked = below !== undefined && (await linkOf(qemu, 'parent')).level === 'mismatch'
  if (relinked) await relink(qemu.path('parent'), qemu.path(below), { acceptModified: true })
  await relink(qemu.path('child'), qemu.path('parent'), { acceptModified: true })
  // Once we have changed anything in the parent, its identity is a new one that can be relied on.
  expect((await linkOf(qemu, 'child')).level).toBe(relinked ? 'verified' : 'consistent')
  expectSameBytes(await ourReading(qemu.path('child')), qemu.reads('child'), 'the child')
  const before = await identityOf(qemu, 'parent')
  await write(qemu.path('parent'), 300_000)
  const after = await identityOf(qemu, 'parent')
  expect(after).toMatchObject({ uuid: before.uuid, current: true })
  expect(after.value).not.toBe(before.value)
  expect(await linkOf(qemu, 'child')).toEqual({ level: 'mismatch', reason: 'PARENT_MODIFIED' })
  await expectAgreement(qemu, 'parent')
}

/** Writes into the file past the format, as `dd conv=notrunc` does. */
function dd(qemu: Qemu, name: string, at: number): void {
  const options = [`of=${name}`, 'bs=512', `seek=${at / 512}`, 'count=1', 'conv=notrunc', 'status=none']
  runPeer('dd', ['if=/dev/urandom', ...options], { in: qemu.folder })
}

/** The last sector of the data of an image with one run of it: no table lies there. */
function lastSector(qemu: Qemu, name: string): number {
  return fs.statSync(qemu.path(name)).size - 512
}

describeWithPeers(['qemu-img', 'qemu-io', 'dd'], 'a parent that changed is noticed in its child', () => {
  const writers: Record<string, (qemu: Qemu, format: string) => Promise<void> | void> = {
    vdisk: (qemu, format) => write(qemu.path('base'), 0, format),
    'qemu-io': (qemu, format) => void qemu.io('base', ['write -P 3 0 4k'], ['-f', format]),
    dd: (qemu) => dd(qemu, 'base', lastSector(qemu, 'base')),
    'a copy of another disk in its place': (qemu, format) => {
      qemu.img(['create', '-q', '-f', format, 'other', String(SIZE)])
      qemu.io('other', ['write -P 4 0 1M'], ['-f', format])
      fs.copyFileSync(qemu.path('other'), qemu.path('base'))
    },
    'a smaller disk': (qemu, format) => void qemu.img(['resize', '-q', '--shrink', '-f', format, 'base', '512k']),
  }
  for (const [kind, options, format] of [
    ['qcow2', {}, 'qcow2'],
    ['qcow2 of version 2', { compat: '0.10' }, 'qcow2'],
    ['qcow2 with clusters of 512 bytes', { cluster_size: '512' }, 'qcow2'],
    ['raw', {}, 'raw'],
  ] as const) {
    test.each(Object.entries(writers))(`${kind}, by %s`, async (_, work) => {
      const qemu = await family(options, format)
      expect((await linkOf(qemu, 'parent')).level).toBe(format === 'raw' ? 'consistent' : 'verified')
      await work(qemu, format)
      expect((await linkOf(qemu, 'parent')).level).toBe('mismatch')
      const error = await openDisk(qemu.path('parent')).catch((thrown: unknown) => thrown)
      expect(isVdiskError(error, 'PARENT_MISMATCH')).toBe(true)
    })
  }

  test('although we changed something in it afterwards that no guest sees', async () => {
    for (const options of [{}, { compat: '0.10' }]) {
      for (const work of ['qemu-io', 'dd']) {
        const qemu = await family(options)
        await writers[work]?.(qemu, 'qcow2')
        await createInternalSnapshot(qemu.path('base'), 'x')
        expect((await linkOf(qemu, 'parent')).level, `${work} ${JSON.stringify(options)}`).toBe('mismatch')
      }
    }
  })

  test('although it is a copy that went through as many changes as the original', async () => {
    const qemu = await family()
    fs.copyFileSync(qemu.path('base'), qemu.path('copy'))
    await write(qemu.path('base'), 0)
    await write(qemu.path('copy'), 500_000)
    await createLayer(qemu.path('base'), qemu.path('new'), {})
    expect((await linkOf(qemu, 'new')).level).toBe('verified')
    fs.renameSync(qemu.path('copy'), qemu.path('base'))
    expect((await linkOf(qemu, 'new')).level).toBe('mismatch')
  })
})

describeWithPeers(['qemu-img', 'qemu-io'], 'a header of 512 bytes', () => {
  test('holds long names of parents, changed by us and by QEMU, until it is full', async () => {
    const qemu = await family({ cluster_size: '512' })
    const { uuid } = await identityOf(qemu, 'parent')
    let fitted = 0
    for (let length = 10; length < 200; length += 19) {
      const name = 'b'.repeat(length)
      fs.renameSync(
        qemu.path((await inspectImage(qemu.path('parent'))).parent?.references[0] as string),
        qemu.path(name),
      )
      const before = fs.readFileSync(qemu.path('parent'))
      const error = await relink(qemu.path('parent'), qemu.path(name)).catch((thrown: unknown) => thrown)
      if (isVdiskError(error)) {
        expect(error.code).toBe('LIMIT_EXCEEDED')
        // A refusal leaves the image as it was; the name of the parent too.
        expect(fs.readFileSync(qemu.path('parent')).subarray(0, 512)).toEqual(before.subarray(0, 512))
        break
      }
      fitted = length
      expect((await linkOf(qemu, 'parent')).level).toBe('verified')
      await expectAgreement(qemu, 'parent')
      qemu.img(['rebase', '-u', '-b', name, '-F', 'qcow2', 'parent'])
      expect((await identityOf(qemu, 'parent')).uuid).toBe(uuid)
      await expectAgreement(qemu, 'parent')
    }
    expect(fitted).toBeGreaterThan(60)
    expect(fitted).toBeLessThan(190)
  })
})

describeWithPeers(['qemu-img', 'qemu-io'], 'a merge in clusters of 512 bytes', () => {
  test.each([60, 100, 128])('ends well where the name of the parent has %i bytes', async (length) => {
    const qemu = new Qemu(scratchFolder())
    const name = 'b'.repeat(length)
    const options = { cluster_size: '512' }
    await make(qemu, name, { format: 'qcow2', size: SIZE * 2, options })
    await make(qemu, 'child', { format: 'qcow2', options, parent: qemu.path(name) })
    const content = await ourReading(qemu.path('child'))
    await finish(mergeImage(qemu.path('child')))
    expectSameBytes(await expectAgreement(qemu, name), content, 'the base')
    // What the header has no room for is cut from the name.
    const { merged } = await inspectImage(qemu.path('child'))
    expect(merged && name.startsWith(merged.into)).toBe(true)
    expectSameBytes(await expectAgreement(qemu, 'child'), content, 'the child')
  })
})

describeWithPeers(['qemu-img', 'qemu-io'], 'a change of version by QEMU', () => {
  test('keeps the extension, down to 0.10 and back to 1.1', async () => {
    const qemu = await family()
    const { value } = await identityOf(qemu, 'parent')
    for (const compat of ['0.10', '1.1']) {
      qemu.img(['amend', '-o', `compat=${compat}`, 'parent'])
      expect(await identityOf(qemu, 'parent')).toMatchObject({ value, current: false })
      expect((await linkOf(qemu, 'child')).level).toBe('mismatch')
      await expectAgreement(qemu, 'parent')
    }
    await expectLifeGoesOn(qemu)
  })
})
