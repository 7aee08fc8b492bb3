import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseXml } from '../../../../lib/bytes/xml.ts'
import {
  checkImage,
  convertDisk,
  createDisk,
  createInternalSnapshot,
  deleteInternalSnapshot,
  finish,
  inspectImage,
  listSnapshots,
  openDisk,
  resizeDisk,
  revertToSnapshot,
} from '../../../../lib/index.ts'
import { patternFor } from '../../../model/history.ts'
import { randomTest } from '../../../support/random.ts'
import { tempFolder } from '../../../support/temp.ts'

const folder = tempFolder('parallels')
const MIB = 1 << 20
let made = 0

interface How {
  readonly size?: number
  readonly options?: Readonly<Record<string, string>>
}

/** An empty bundle. */
async function bundle({ size = 4 * MIB, options = {} }: How = {}): Promise<string> {
  const name = path.join(folder, `disk-${made++}.hdd`)
  const disk = await createDisk(name, {
    format: 'parallels',
    size,
    options: { bundle: 'on', cluster_size: '64K', ...options },
  })
  await disk.close()
  return name
}

async function write(name: string, offset: number, length: number, fill: number): Promise<void> {
  await using disk = await openDisk(name, { writable: true })
  await disk.write(offset, patternFor(offset, length, fill))
}

async function contentOf(name: string, snapshot?: string): Promise<Buffer> {
  await using disk = await openDisk(name, { snapshot })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

/** Buffers are compared by their digests: a matcher that looks at each byte takes minutes. */
const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

const descriptorOf = (name: string): string => fs.readFileSync(path.join(name, 'DiskDescriptor.xml'), 'utf8')
const filesOf = (name: string): string[] => fs.readdirSync(name).filter((file) => file.endsWith('.hds'))

async function findingsOf(name: string): Promise<string[]> {
  const { findings } = await finish(checkImage(name))
  return findings.map(({ code, message }) => `${code} ${message}`)
}

describe.each([
  ['expanding', {}],
  ['plain', { type: 'plain' }],
  ['expanding, classic', { magic: 'classic' }],
])('a bundle, %s', (_, options) => {
  test('is a folder with a descriptor, and keeps what is written', async () => {
    const name = await bundle({ options })
    await write(name, 100_000, 200_000, 1)
    const wanted = Buffer.alloc(4 * MIB)
    wanted.set(patternFor(100_000, 200_000, 1), 100_000)
    expect(digest(await contentOf(name))).toBe(digest(wanted))
    expect(digest(await contentOf(path.join(name, 'DiskDescriptor.xml')))).toBe(digest(wanted))
    expect(fs.readdirSync(name).sort()).toEqual(['DiskDescriptor.xml', ...filesOf(name)].sort())
    expect(await findingsOf(name)).toEqual([])
    const { root } = parseXml(Buffer.from(descriptorOf(name)), { file: name, structure: 'x' })
    expect(root.children.map((child) => child.name)).toEqual(['Disk_Parameters', 'StorageData', 'Snapshots'])
  })

  test('keeps snapshots, goes back to them, and merges them away', async () => {
    const name = await bundle({ options })
    await write(name, 0, 300_000, 1)
    const first = await contentOf(name)
    await createInternalSnapshot(name, 'first')
    await write(name, 200_000, 300_000, 2)
    const second = await contentOf(name)
    await createInternalSnapshot(name, 'the second -- one')
    await write(name, 3 * MIB, 100, 3)
    const top = await contentOf(name)

    const list = await listSnapshots(name)
    expect(list.map((one) => one.name)).toEqual(['first', 'the second -- one'])
    expect(digest(await contentOf(name, list[0]?.id))).toBe(digest(first))
    expect(digest(await contentOf(name, list[1]?.id))).toBe(digest(second))
    expect(filesOf(name)).toHaveLength(3)
    expect(await findingsOf(name)).toEqual([])

    await deleteInternalSnapshot(name, 'first')
    expect(digest(await contentOf(name))).toBe(digest(top))
    expect(digest(await contentOf(name, list[1]?.id))).toBe(digest(second))
    expect(filesOf(name)).toHaveLength(2)
    expect(await findingsOf(name)).toEqual([])

    expect(await revertToSnapshot(name, `{${list[1]?.id.toUpperCase()}}`)).toBe('internal')
    expect(digest(await contentOf(name))).toBe(digest(second))
    await write(name, 0, 10, 9)
    await revertToSnapshot(name, 'the second -- one')
    expect(digest(await contentOf(name))).toBe(digest(second))

    await deleteInternalSnapshot(name, 'the second -- one')
    expect(digest(await contentOf(name))).toBe(digest(second))
    expect(await listSnapshots(name)).toEqual([])
    expect(filesOf(name)).toHaveLength(1)
    expect(await findingsOf(name)).toEqual([])
    await write(name, MIB, 5000, 4)
    second.set(patternFor(MIB, 5000, 4), MIB)
    expect(digest(await contentOf(name))).toBe(digest(second))
  })

  test('grows and shrinks, and grows with zeros', async () => {
    const name = await bundle({ options })
    await write(name, 0, 4 * MIB, 5)
    const before = await contentOf(name)
    await resizeDisk(name, 7 * MIB + 512)
    expect(digest(await contentOf(name))).toBe(digest(Buffer.concat([before, Buffer.alloc(3 * MIB + 512)])))
    await resizeDisk(name, MIB + 512, { shrink: true })
    await resizeDisk(name, 3 * MIB)
    expect(digest(await contentOf(name))).toBe(
      digest(Buffer.concat([before.subarray(0, MIB + 512), Buffer.alloc(2 * MIB - 512)])),
    )
    expect(await findingsOf(name)).toEqual([])
  })
})

describe('a bundle', () => {
  test('that is split has a file for each 2 GiB, and is written over their borders', async () => {
    const size = 5 * 1024 * MIB
    const name = await bundle({ size, options: { split: 'on', cluster_size: '1M' } })
    expect(filesOf(name)).toHaveLength(3)
    const border = 2048 * MIB
    await write(name, border - 1000, 2000, 1)
    await createInternalSnapshot(name, 's')
    await write(name, border - 10, 20, 2)
    const wanted = Buffer.from(patternFor(border - 1000, 2000, 1))
    wanted.set(patternFor(border - 10, 20, 2), 990)
    await using disk = await openDisk(name)
    const found = Buffer.alloc(2000)
    await disk.read(border - 1000, found)
    expect(found).toEqual(wanted)
    expect(filesOf(name)).toHaveLength(6)
    expect(await findingsOf(name)).toEqual([])
  })

  test('changes nothing of its descriptor but what a snapshot is about', async () => {
    const name = await bundle()
    const file = path.join(name, 'DiskDescriptor.xml')
    const strange = `<Unknown a='1'  ><!-- kept --><Deep/>\r\n</Unknown >`
    const before = descriptorOf(name).replace('    <StorageData>', `    ${strange}\n    <StorageData>`)
    fs.writeFileSync(file, before)
    await createInternalSnapshot(name, 's')
    expect(descriptorOf(name)).toContain(strange)
    await deleteInternalSnapshot(name, 's')
    const after = descriptorOf(name)
    // What is left of it all is the name of the file.
    expect(after.replace(/<File>.*<\/File>/, '')).toBe(before.replace(/<File>.*<\/File>/, ''))
  })

  test('with a branch keeps it: a state that two are built upon stays', async () => {
    const name = await bundle()
    await write(name, 0, 1000, 1)
    await createInternalSnapshot(name, 'base')
    await write(name, 0, 1000, 2)
    await createInternalSnapshot(name, 'left')
    const left = await contentOf(name)
    await revertToSnapshot(name, 'base')
    await write(name, 0, 1000, 3)
    const top = await contentOf(name)
    await expect(deleteInternalSnapshot(name, 'base')).rejects.toThrow(/several states are built upon it/)
    const [, other] = await listSnapshots(name)
    expect(digest(await contentOf(name, other?.id))).toBe(digest(left))
    await deleteInternalSnapshot(name, 'left')
    await deleteInternalSnapshot(name, 'base')
    expect(digest(await contentOf(name))).toBe(digest(top))
    expect(filesOf(name)).toHaveLength(1)
  })

  test('is the destination of a conversion, which leaves nothing when it fails', async () => {
    const source = await bundle()
    await write(source, 0, 500_000, 1)
    const to = path.join(folder, 'converted.hdd')
    await using disk = await openDisk(source)
    await finish(convertDisk(disk.chain, to, { format: 'parallels', options: { bundle: 'on' } }))
    expect(digest(await contentOf(to))).toBe(digest(await contentOf(source)))
    expect(fs.readdirSync(to)).toHaveLength(2)
    const never = path.join(folder, 'never.hdd')
    const wrong = { format: 'parallels', options: { bundle: 'on', cluster_size: '1000' } }
    await expect(finish(convertDisk(disk.chain, never, wrong))).rejects.toThrow(/multiple of 512|cannot have/)
    expect(fs.existsSync(never)).toBe(false)
  })

  test('that was moved finds its files, though their names are absolute', async () => {
    const name = await bundle()
    await write(name, 0, 1000, 1)
    const wanted = await contentOf(name)
    const file = path.join(name, 'DiskDescriptor.xml')
    fs.writeFileSync(file, descriptorOf(name).replace('<File>', '<File>/Users/me/Parallels/old.hdd/'))
    expect(digest(await contentOf(name))).toBe(digest(wanted))
    await createInternalSnapshot(name, 's')
    await deleteInternalSnapshot(name, 's')
    expect(digest(await contentOf(name))).toBe(digest(wanted))
  })

  test('is opened at any of its states, by GUID or name, and only to be read there', async () => {
    const name = await bundle()
    await write(name, 0, 1000, 1)
    const before = await contentOf(name)
    const { id } = await createInternalSnapshot(name, 'then')
    await write(name, 0, 1000, 2)
    for (const state of [id, `{${id.toUpperCase()}}`, 'then']) {
      expect(digest(await contentOf(name, state))).toBe(digest(before))
    }
    await expect(openDisk(name, { snapshot: 'never' })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await expect(openDisk(name, { snapshot: id, writable: true })).rejects.toMatchObject({ code: 'REFUSED' })
    // Nothing is left open by those.
    await write(name, 0, 1000, 3)
  })

  test('tells what it is made of', async () => {
    const name = await bundle()
    await createInternalSnapshot(name, 's')
    const { format, details, snapshots } = await inspectImage(name)
    expect(format).toBe('parallels')
    expect(details).toMatchObject({ type: 'bundle, expanding', top: '5fbaabe3-6958-40ff-92a7-860e329aab41' })
    expect(snapshots).toMatchObject([{ name: 's' }])
  })

  test('in use is not opened by another', async () => {
    const name = await bundle()
    await using disk = await openDisk(name, { writable: true })
    await disk.write(0, Uint8Array.of(1))
    await expect(openDisk(name, { writable: true })).rejects.toMatchObject({ code: 'IN_USE' })
    const file = path.join(name, filesOf(name)[0] as string)
    await expect(openDisk(file, { writable: true })).rejects.toMatchObject({ code: 'IN_USE' })
  })

  test('cannot keep an undo journal of what replaces its files, and is as before', async () => {
    const name = await bundle()
    // To take this back is to delete it: no journal is needed.
    await createInternalSnapshot(name, 's', { undo: true })
    const before = [descriptorOf(name), ...filesOf(name)]
    for (const change of [revertToSnapshot, deleteInternalSnapshot]) {
      await expect(change(name, 's', { undo: true })).rejects.toMatchObject({
        code: 'UNSUPPORTED',
        advice: expect.stringContaining('--no-undo'),
      })
    }
    expect([descriptorOf(name), ...filesOf(name)]).toEqual(before)
    expect(fs.readdirSync(name)).toHaveLength(3)
  })

  test('with snapshots keeps its size, until they are deleted: their files have the old one', async () => {
    const name = await bundle()
    await createInternalSnapshot(name, 's')
    const before = descriptorOf(name)
    await expect(resizeDisk(name, 8 * MIB)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      advice: expect.stringContaining('vdisk snapshot delete IMAGE NAME'),
    })
    expect(descriptorOf(name)).toBe(before)
    await deleteInternalSnapshot(name, 's')
    await resizeDisk(name, 8 * MIB)
    expect((await contentOf(name)).length).toBe(8 * MIB)
  })

  randomTest('histories of writes, snapshots, reverts and merges agree with plain copies', async (random) => {
    const size = 20 * 4096 + 512
    const name = await bundle({
      size,
      options: { cluster_size: '4K', ...(random.chance(0.3) ? { type: 'plain' } : {}) },
    })
    let now = Buffer.alloc(size)
    const kept = new Map<string, { readonly bytes: Buffer; readonly parent: string | undefined }>()
    let upon: string | undefined
    for (let step = 0; step < 25; step++) {
      const names = [...kept.keys()]
      const kind = random.pick(['write', 'write', 'write', 'erase', 'create', 'revert', 'delete'] as const)
      if (kind === 'write' || kind === 'erase') {
        await using disk = await openDisk(name, { writable: true })
        for (let i = 0; i < 3; i++) {
          const offset = random.below(size)
          const length = 1 + random.below(Math.min(size - offset, random.pick([600, 9000, size])))
          if (kind === 'write') {
            await disk.write(offset, patternFor(offset, length, step + i))
            now.set(patternFor(offset, length, step + i), offset)
          } else {
            await disk.erase(offset, length)
            now.fill(0, offset, offset + length)
          }
        }
      } else if (kind === 'create') {
        const label = `s${step}`
        await createInternalSnapshot(name, label)
        kept.set(label, { bytes: Buffer.from(now), parent: upon })
        upon = label
      } else if (names.length > 0) {
        const label = random.pick(names)
        if (kind === 'revert') {
          await revertToSnapshot(name, label)
          now = Buffer.from(kept.get(label)?.bytes as Buffer)
          upon = label
        } else {
          const heirs = names.filter((one) => kept.get(one)?.parent === label).length + (upon === label ? 1 : 0)
          if (heirs > 1) continue
          await deleteInternalSnapshot(name, label)
          const { parent } = kept.get(label) as { parent: string | undefined }
          if (upon === label) upon = parent
          for (const [one, state] of kept) if (state.parent === label) kept.set(one, { ...state, parent })
          kept.delete(label)
        }
      }
      expect((await contentOf(name)).equals(now)).toBe(true)
    }
    for (const { id, name: label } of await listSnapshots(name)) {
      expect((await contentOf(name, id)).equals(kept.get(label)?.bytes as Buffer)).toBe(true)
    }
    expect(await findingsOf(name)).toEqual([])
    expect(filesOf(name)).toHaveLength(kept.size + 1)
  })
})
