import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { FolderGate } from '../../lib/chain/gate.ts'
import { chooseDriver } from '../../lib/chain/probe.ts'
import { drivers } from '../../lib/formats/registry.ts'
import { checkImage, finish, openDisk } from '../../lib/index.ts'
import { hostFiles } from '../../lib/io/host-files.ts'
import { promised, runSync } from '../../lib/io/io.ts'
import { COPIED, CraftedImage, snapshotEntry } from '../support/crafted-qcow2.ts'
import { failureOf } from '../support/hostile.ts'
import { MemoryFolder } from '../support/memory-image.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'
import { VhdxFile } from '../support/vhdx-file.ts'
import { put, vhdxChild } from './images.ts'
import { Sandbox } from './sandbox.ts'

const sandbox = Sandbox.forThisFile()
const MIB = 1 << 20

describe('class 11: a guest that writes a header into a raw disk', () => {
  const canary = (folder: string): string => put(folder, 'canary', Buffer.alloc(MIB, 0x63))

  test('of qcow2, with a backing file: declared raw, the disk stays raw', async () => {
    const folder = scratchFolder()
    const image = new CraftedImage().backing(canary(folder), 'raw')
    const seen = await sandbox.use(put(folder, 'disk', image), { format: 'raw' })
    expect(new Set(Object.values(seen))).toEqual(new Set(['fine']))
  })

  test('of qcow2, below a child that calls its parent raw', async () => {
    const folder = scratchFolder()
    const disk = put(folder, 'disk', new CraftedImage().backing(canary(folder), 'raw'))
    const child = put(folder, 'child', new CraftedImage().backing('disk', 'raw'))
    expect((await sandbox.use(child, { uses: ['inspect', 'read', 'write'], mayOpen: [disk] })).read).toBe('fine')
  })

  test('and a child that does not say what its parent is: nothing is opened', async () => {
    const folder = scratchFolder()
    put(folder, 'disk', new CraftedImage())
    const child = put(folder, 'child', new CraftedImage().backing('disk'))
    expect((await sandbox.use(child, { uses: ['inspect', 'read', 'write'] })).read).toBe('REFUSED, parent reference')
  })

  test('what no format knows is not written unless it is called raw', async () => {
    const file = put(scratchFolder(), 'disk', Buffer.alloc(MIB, 1))
    const seen = await sandbox.use(file)
    expect([seen.read, seen.write]).toEqual(['fine', 'NOT_THIS_FORMAT'])
  })
})

describe('class 12: files that are two things at once', () => {
  test('are refused, and all that they seem to be is named', () => {
    const folder = new MemoryFolder()
    const image = folder.image('a')
    void image.store.write(0, Buffer.alloc(4096))
    const seems = (name: string) => (): 'perhaps' | 'yes' => (name === 'raw' ? 'perhaps' : 'yes')
    const both = drivers.map((driver) => ({ ...driver, probe: seems(driver.name) }))
    const error = failureOf(() => runSync(chooseDriver(image, both, { forWriting: false })))
    expect([error?.code, error?.message]).toEqual(['AMBIGUOUS_FORMAT', expect.stringContaining('qcow2 and vhdx')])
  })

  test('a partition table of two kinds is read as one, and the other is told', async () => {
    const disk = Buffer.alloc(MIB)
    disk.set([0x55, 0xaa], 510)
    disk[450] = 0xee
    disk.write('EFI PART', 512, 'latin1')
    disk.write('CD001', 32769, 'latin1')
    const seen = await sandbox.use(put(scratchFolder(), 'a', disk), { format: 'raw', uses: ['partitions'] })
    expect(seen.partitions).toBe('fine')
  })
})

describe('class 22: a child without its parent', () => {
  test('VHDX: is never read as zeros', async () => {
    const linkage = { parent_linkage: '{01234567-89AB-4CDE-8F01-23456789ABCD}' }
    for (const paths of [{ relative_path: '.\\gone' }, {}]) {
      const file = put(scratchFolder(), 'a', await vhdxChild({ ...linkage, ...paths }))
      const seen = await sandbox.use(file)
      expect([seen.inspect, seen.read, seen.write]).toEqual([
        'fine',
        expect.stringMatching(/^PARENT_MISSING/),
        expect.stringMatching(/^PARENT_MISSING/),
      ])
    }
  })

  test('VHDX: which does not say that it has a parent, with blocks that only a child has', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.setEntry(0, (3n << 20n) | 7n)
    const seen = await sandbox.use(put(scratchFolder(), 'a', file))
    expect(seen.read).toMatch(/^CORRUPT/)
  })

  test('qcow2: is never read as zeros', async () => {
    const seen = await sandbox.use(put(scratchFolder(), 'a', new CraftedImage().backing('gone', 'raw')))
    expect([seen.inspect, seen.read, seen.write]).toEqual([
      'fine',
      'PARENT_MISSING, parent reference',
      'PARENT_MISSING, parent reference',
    ])
  })
})

describe('class 21: files that are exchanged while they are opened', () => {
  test.each([
    ['another file', (at: string, canary: string) => fs.copyFileSync(canary, at)],
    ['a symbolic link', (at: string, canary: string) => fs.symlinkSync(canary, at)],
    ['a link to the same file', (at: string, canary: string) => fs.linkSync(canary, at)],
  ])('a parent, for %s, between the look and the opening', async (_, exchange) => {
    const folder = scratchFolder()
    const canary = put(folder, 'canary', Buffer.alloc(MIB, 0x63))
    fs.mkdirSync(path.join(folder, 'images'))
    const parent = put(folder, 'images/parent', Buffer.alloc(MIB))
    const child = put(folder, 'images/child', new CraftedImage().backing('parent', 'raw'))
    const files = {
      ...hostFiles,
      open: (file: string, options?: Parameters<typeof hostFiles.open>[1]) => {
        if (path.basename(file) === 'parent') {
          // Kept under another name: else its number might be given to the new one.
          fs.renameSync(parent, `${parent}.old`)
          exchange(parent, canary)
        }
        return hostFiles.open(file, options)
      },
    }
    expect((await refusal(() => openDisk(child, { files }))).code).toMatch(/^(REFUSED|NOT_FOUND|PARENT_MISSING|IO)$/)
  })

  test('what was probed is what is opened: one descriptor for both', async () => {
    const folder = scratchFolder()
    const file = put(folder, 'a', new CraftedImage())
    const gate = new FolderGate(file, { locking: false })
    const image = FolderGate.openNamed(file, gate, {})
    fs.rmSync(file)
    put(folder, 'a', Buffer.alloc(MIB, 1))
    const driver = runSync(chooseDriver(image, drivers, { forWriting: false }))
    expect(driver.name).toBe('qcow2')
    const layer = await promised(driver.open(image, 'read'))
    await promised(layer.close())
  })
})

describe('class 24: names that mean something to an object', () => {
  const NAMES = ['__proto__', 'constructor', 'prototype', 'hasOwnProperty', 'toString']

  test('qcow2: of snapshots', async () => {
    const image = new CraftedImage()
    const table = Buffer.concat(NAMES.map((name, i) => snapshotEntry({ l1At: 0, l1Size: 0, name, id: `${i}` })))
    const number = image.grow(1, table)
    image.header('snapshotCount', NAMES.length).header('snapshotsOffset', image.at(number))
    const seen = await sandbox.use(put(scratchFolder(), 'a', image))
    expect(new Set(Object.values(seen))).toEqual(new Set(['fine']))
  })

  test('VHDX: of entries of the parent locator', async () => {
    const pairs = Object.fromEntries(NAMES.map((name) => [name === '__proto__' ? '__proto__ ' : name, 'x']))
    const file = put(
      scratchFolder(),
      'a',
      await vhdxChild({ ...pairs, relative_path: '.\\gone', vdisk_link: '{"__proto__":{"x":1}}' }),
    )
    const seen = await sandbox.use(file)
    expect([seen.inspect, seen.read]).toEqual(['fine', expect.stringMatching(/^(PARENT_MISSING|REFUSED)/)])
  })
})

describe('class 25: walks without end', () => {
  test('qcow2: a check that would take hours is told to stop, and stops', async () => {
    // Four million entries, each of which leads to a table of its own, all of them holes.
    const image = new CraftedImage({ clusterBits: 16 })
    const l1 = 2 ** 30
    image.header('l1Size', 2 ** 22).header('l1TableOffset', l1)
    const folder = scratchFolder()
    const file = put(folder, 'a', image, l1 + 2 ** 25)
    const entries = Buffer.alloc(2 ** 25)
    for (let i = 0; i < 2 ** 22; i++) entries.writeBigUInt64BE(BigInt(2 ** 31 + i * 65536) | COPIED, i * 8)
    const fd = fs.openSync(file, 'r+')
    fs.writeSync(fd, entries, 0, entries.length, l1)
    fs.ftruncateSync(fd, 2 ** 39)
    fs.closeSync(fd)
    const cancel = new AbortController()
    let turns = 0
    const turn = (): void => {
      turns++
      if (turns === 3) cancel.abort()
      else setTimeout(turn, 0)
    }
    turn()
    expect((await refusal(() => finish(checkImage(file, { signal: cancel.signal })))).code).toBe('CANCELLED')
    expect(turns).toBe(3)
  })
})
