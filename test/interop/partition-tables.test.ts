import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  convertDisk,
  finish,
  openDisk,
  PartitionDevice,
  type PartitionTable,
  type PartitionTableOptions,
  probeFilesystem,
  promised,
  readPartitionTable,
} from '../../lib/index.ts'
import { KNOWN_TYPES } from '../../lib/partitions/partition-types.ts'
import { corpusEntries, corpusMissing, REFUSED_FIRST, restored } from '../support/corpus.ts'
import { blkidFilesystem, judged, named, sfdiskTable } from '../support/disk-judges.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { tempFolder } from '../support/temp.ts'

const MIB = 1 << 20
const scratch = tempFolder('tables')
let count = 0

/** A file of zeros that takes no room. */
function emptyFile(size: number): string {
  const file = path.join(scratch, `disk-${++count}`)
  fs.writeFileSync(file, '')
  fs.truncateSync(file, size)
  return file
}

async function tableIn(file: string, options: PartitionTableOptions = {}): Promise<PartitionTable | undefined> {
  await using disk = await openDisk(file, { format: 'raw' })
  return await promised(readPartitionTable(disk.chain, options))
}

const GPT = `label: gpt
start=2048, size=40960, type=uefi, name="EFI System Partition", bootable
size=1MiB, type=21686148-6449-6E6F-744E-656564454649
size=20MiB, type=linux, name="root & größe 🙂", attrs="LegacyBIOSBootable GUID:60"
type=swap
`
const LOGICAL = `label: dos
label-id: 0xdeadbeef
start=2048, size=10MiB, type=c, bootable
size=10MiB, type=83
size=60MiB, type=f
size=1MiB, type=83
size=2MiB, type=82
size=3MiB, type=7
size=4MiB, type=8e
type=fd
`
const PRIMARY_ONLY = `label: dos
label-id: 0x00000001
1: start=6000, size=10, type=0
2: start=63, size=1000, type=7
4: start=5000, size=7, type=a5, bootable
`

describeWithPeers(['sfdisk'], 'tables that sfdisk makes are read as sfdisk reads them', () => {
  test.each([
    ['GPT', GPT],
    ['GPT with 256 entries', `table-length: 256\n${GPT}`],
    ['GPT with gaps', 'label: gpt\n5: size=1MiB, type=linux\n128: size=2MiB, type=home'],
    ['GPT without partitions', 'label: gpt'],
    ['MBR', PRIMARY_ONLY],
    ['MBR with logical partitions', LOGICAL],
    ['MBR without partitions', 'label: dos'],
  ] as const)('%s', async (_, script) => {
    const file = emptyFile(128 * MIB)
    runPeer('sfdisk', ['--quiet', file], { input: script })
    const wanted = sfdiskTable(file)
    expect(wanted).toBeDefined()
    const found = await tableIn(file)
    expect(judged(found)).toEqual(wanted)
    expect(found?.notes).toEqual([])
  })

  test('logical partitions of which the second was deleted', async () => {
    const file = emptyFile(128 * MIB)
    runPeer('sfdisk', ['--quiet', file], { input: LOGICAL })
    runPeer('sfdisk', ['--quiet', '--delete', file, '6'])
    expect(judged(await tableIn(file))).toEqual(sfdiskTable(file))
    expect((await tableIn(file))?.partitions).toHaveLength(3 + 4)
  })

  test('a GPT whose primary copy was overwritten, and one whose backup was', async () => {
    const file = emptyFile(128 * MIB)
    runPeer('sfdisk', ['--quiet', file], { input: GPT })
    const wanted = sfdiskTable(file)
    const zeros = new Uint8Array(512)
    const handle = fs.openSync(file, 'r+')
    const whole = Buffer.alloc(512)
    fs.readSync(handle, whole, 0, 512, 512)
    fs.writeSync(handle, zeros, 0, 512, 512)
    expect(judged(await tableIn(file))).toEqual(wanted)
    expect((await tableIn(file))?.notes.join()).toContain('read from the backup')
    fs.writeSync(handle, whole, 0, 512, 512)
    fs.writeSync(handle, zeros, 0, 512, 128 * MIB - 512)
    fs.closeSync(handle)
    expect(judged(await tableIn(file))).toEqual(wanted)
    expect((await tableIn(file))?.notes.join()).toContain('the backup of its GPT cannot be used')
  })

  test('every type that has a name here has one there', () => {
    const listed = ['gpt', 'dos'].flatMap((label) =>
      runPeer('sfdisk', ['--list-types', '--label', label])
        .stdout.split('\n')
        .map((line) => line.trim().split(/\s+/)[0]?.toLowerCase() ?? '')
        .map((type) => (label === 'dos' ? `0x${type.padStart(2, '0')}` : type)),
    )
    // Those that sfdisk 2.38 does not know: the Discoverable Partitions Specification has them.
    const others = ['7ffec5c9-2d00-49b7-8941-3ea10a5586b7', 'ca7d7ccb-63ed-4c53-861c-1742536059cc']
    expect([...KNOWN_TYPES.keys()].filter((type) => !listed.includes(type) && !others.includes(type))).toEqual([])
  })
})

describeWithPeers(['fdisk'], 'tables that fdisk makes in sectors of 4096', () => {
  test.each([
    ['GPT', 'label: gpt\nstart=256, size=2560, name="one"\nstart=4096, size=256', {}],
    [
      'MBR',
      'label: dos\nstart=256, size=2560\nstart=4096, size=8192, type=f\nstart=4352, size=256',
      { sectorSize: 4096 },
    ],
  ] as const)('%s', async (label, script, options) => {
    const file = emptyFile(128 * MIB)
    fs.writeFileSync(`${file}.script`, script)
    runPeer('fdisk', ['-b', '4096', file], { input: `I\n${file}.script\nw\n` })
    const table = await tableIn(file, options)
    expect(table).toMatchObject({ kind: label.toLowerCase(), sectorSize: 4096, notes: [] })
    const places = table?.partitions.map(({ start, length }) => [start / 4096, length / 4096])
    const box =
      label === 'MBR'
        ? [
            [4096, 8192],
            [4352, 256],
          ]
        : [[4096, 256]]
    expect(places).toEqual([[256, 2560], ...box])
  })
})

describeWithPeers(['sfdisk', 'sgdisk'], 'tables that sgdisk makes', () => {
  const made = (...args: string[]): string => {
    const file = emptyFile(64 * MIB)
    runPeer('sgdisk', [
      '-n',
      '1:0:+10M',
      '-t',
      '1:ef00',
      '-c',
      '1:boot',
      '-n',
      '3:0:+20M',
      '-A',
      '3:set:2',
      ...args,
      file,
    ])
    return file
  }

  test('are read as sfdisk reads them', async () => {
    const file = made()
    expect(judged(await tableIn(file))).toEqual(sfdiskTable(file))
  })

  test('a hybrid MBR beside the GPT', async () => {
    const file = made()
    runPeer('sgdisk', ['-h', '1:3', file])
    expect(judged(await tableIn(file))?.partitions.map(({ number }) => number)).toEqual([1, 3])
    expect((await tableIn(file))?.notes).toEqual([expect.stringContaining('hybrid')])
  })

  test('a disk that was enlarged has a note until the backup has been moved, as the note says', async () => {
    const file = made()
    fs.truncateSync(file, 100 * MIB)
    expect((await tableIn(file))?.notes).toEqual([expect.stringContaining('sgdisk --move-second-header')])
    runPeer('sgdisk', ['--move-second-header', file])
    expect((await tableIn(file))?.notes).toEqual([])
    expect(judged(await tableIn(file))).toEqual(sfdiskTable(file))
  })

  test('a disk that was cut', async () => {
    const file = made()
    fs.truncateSync(file, 20 * MIB)
    const table = await tableIn(file)
    expect(table?.partitions.map(({ damaged }) => damaged)).toEqual([undefined, 'it ends behind the disk'])
    expect(table?.notes).toEqual([expect.stringContaining('of a larger disk, of 64 MiB')])
  })
})

describe.skipIf(corpusMissing)(`images of other makers${corpusMissing ? ` (skipped: ${corpusMissing})` : ''}`, () => {
  describeWithPeers(['sfdisk', 'blkid'], 'hold what sfdisk and blkid find in them', () => {
    test.each(corpusEntries.filter((entry) => entry.expect.startsWith('open')))('$id', async (entry) => {
      const source = restored(entry, scratch)
      const file = `${source}.plain`
      await using disk = await openDisk(source, { salvage: REFUSED_FIRST.has(entry.id) })
      await finish(convertDisk(disk.chain, file, { format: 'raw', durable: false }))
      const whole = blkidFilesystem(file)
      const table = await promised(readPartitionTable(disk.chain))
      expect(named(await promised(probeFilesystem(disk.chain)))).toEqual(whole)
      expect(judged(table)).toEqual(whole ? undefined : sfdiskTable(file))
      for (const partition of table?.partitions ?? []) {
        const found = await promised(probeFilesystem(new PartitionDevice(disk.chain, partition)))
        expect(named(found)).toEqual(blkidFilesystem(file, partition.start))
      }
      fs.rmSync(path.dirname(source), { recursive: true })
    })
  })
})
