import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { isVdiskError } from '../../../lib/errors.ts'
import { checkImage, convertDisk, createDisk, finish, inspectImage, judgeImage, openDisk } from '../../../lib/index.ts'
import { applianceOf, type Disk, type Entry, ovfOf, paxOf, tarOf } from '../../support/appliances.ts'
import { packableDisk } from '../../support/packed-disks.ts'
import { printSeed, randomFor, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const SIZE = 200 * 1024

function written(content: Uint8Array, name = 'machine.ova'): string {
  const file = path.join(scratchFolder(), name)
  fs.writeFileSync(file, content)
  return file
}

async function readAll(file: string): Promise<Buffer> {
  await using disk = await openDisk(file)
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

function diskOf(name: string, seed: string, size = SIZE): Disk {
  return { name, content: packableDisk(randomFor(seed), size) }
}

const ONE = diskOf('disk1.img', 'one')
const TWO = diskOf('disk2.img', 'two')

describe('the disk of an appliance', () => {
  randomTest('reads where it lies, at any place', async (random) => {
    await using disk = await openDisk(written(applianceOf([ONE])))
    expect(disk.size).toBe(SIZE)
    for (let times = 0; times < 50; times++) {
      const offset = random.below(SIZE)
      const bytes = Buffer.alloc(1 + random.below(SIZE - offset))
      await disk.read(offset, bytes)
      expect(bytes.equals(ONE.content.subarray(offset, offset + bytes.length))).toBe(true)
    }
  })

  test('is told of by info, with the member and the size of the file', async () => {
    const archive = applianceOf([ONE])
    const { format, fileSize, wrapping } = await inspectImage(written(archive))
    expect({ format, fileSize, wrapping }).toEqual({
      format: 'raw',
      fileSize: archive.length,
      wrapping: { container: 'OVA', member: 'disk1.img' },
    })
  })

  test('is named where there are several, by its member behind the file', async () => {
    const file = written(applianceOf([ONE, TWO]))
    const { code, advice } = await refusal(() => readAll(file))
    expect({ code, advice }).toEqual({ code: 'REFUSED', advice: `Name one: ${file}/disk1.img, ${file}/disk2.img` })
    expect((await readAll(`${file}/disk1.img`)).equals(ONE.content)).toBe(true)
    expect((await readAll(`${file}/disk2.img`)).equals(TWO.content)).toBe(true)
    expect((await refusal(() => readAll(`${file}/disk3.img`))).code).toBe('NOT_FOUND')
  })

  test('is never written', async () => {
    const file = written(applianceOf([ONE]))
    expect((await refusal(() => openDisk(file, { writable: true, format: 'raw' }))).code).toBe('READ_ONLY')
  })

  test('may have a name that is written as in a URL', async () => {
    const disk = diskOf('my disk.img', 'url')
    const ovf = ovfOf([{ name: 'my%20disk.img', size: SIZE, capacity: SIZE }])
    const file = written(tarOf([{ name: 'a.ovf', content: ovf }, disk]))
    expect((await readAll(file)).equals(disk.content)).toBe(true)
  })

  test('is not guessed without a descriptor, and found by its name then', async () => {
    const file = written(tarOf([ONE]))
    expect((await refusal(() => readAll(file))).code).toBe('NOT_FOUND')
    expect((await readAll(`${file}/disk1.img`)).equals(ONE.content)).toBe(true)
  })

  test.each([
    ['compressed', 'ovf:compression="gzip"'],
    ['in pieces', 'ovf:chunkSize="1000"'],
  ])('is refused where it is stored %s', async (why, more) => {
    const ovf = ovfOf([{ name: ONE.name, size: SIZE, capacity: SIZE, more }])
    const error = await refusal(() => readAll(written(tarOf([{ name: 'a.ovf', content: ovf }, ONE]))))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toContain(why)
  })

  test('is not looked for outside of the archive', async () => {
    const folder = scratchFolder()
    const secret = path.join(folder, 'secret.img')
    fs.writeFileSync(secret, ONE.content)
    for (const name of [secret, 'secret.img', '../secret.img', `file://${secret}`]) {
      const file = path.join(folder, 'machine.ova')
      const ovf = ovfOf([{ name, size: SIZE, capacity: SIZE }])
      fs.writeFileSync(file, tarOf([{ name: 'a.ovf', content: ovf }]))
      expect((await refusal(() => readAll(file))).code).toBe('NOT_FOUND')
    }
  })

  test('of a name like a path is that member, and no path', async () => {
    const folder = scratchFolder()
    fs.writeFileSync(path.join(folder, 'canary'), Buffer.alloc(SIZE, 7))
    fs.mkdirSync(path.join(folder, 'inner'))
    const file = path.join(folder, 'inner', 'machine.ova')
    const disk = { name: '../canary', content: ONE.content }
    fs.writeFileSync(file, applianceOf([disk]))
    expect((await readAll(file)).equals(ONE.content)).toBe(true)
    expect((await readAll(`${file}/../canary`)).equals(ONE.content)).toBe(true)
  })
})

describe('an archive', () => {
  const ovf: Entry = { name: 'a.ovf', content: ovfOf([{ name: ONE.name, size: SIZE, capacity: SIZE }]) }
  const body: Entry = { name: ONE.name, content: ONE.content }

  test.each<[string, Entry[]]>([
    [
      'with a long name of GNU tar',
      [
        { name: '././@LongLink', type: 'L', content: 'disk1.img\0' },
        { ...body, name: 'x' },
      ],
    ],
    [
      'with a name of pax',
      [
        { name: 'p', type: 'x', content: paxOf({ path: 'disk1.img' }) },
        { ...body, name: 'x' },
      ],
    ],
    [
      'with a size of pax',
      [
        { name: 'p', type: 'x', content: paxOf({ size: String(SIZE) }) },
        { ...body, size: 0 },
      ],
    ],
    [
      'with a global header that says nothing of members',
      [{ name: 'g', type: 'g', content: paxOf({ comment: 'x' }) }, body],
    ],
    ['with a binary size of GNU tar', [{ ...body, size: Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0x20, 0) }]],
    ['of GNU tar', [{ ...body, magic: 'ustar  ' }]],
    ['with folders and links', [{ name: 'd/', type: '5' }, { name: 'l', type: '2', size: 4096 }, body]],
    ['of old, without a type', [{ ...body, type: '\0' }]],
  ])('%s is read', async (_, entries) => {
    expect((await readAll(written(tarOf([ovf, ...entries])))).equals(ONE.content)).toBe(true)
  })

  test('that just stops behind its last member is read', async () => {
    expect((await readAll(written(tarOf([ovf, body], 0)))).equals(ONE.content)).toBe(true)
  })

  test.each<[string, Entry[], string]>([
    ['sparse in the old way of GNU tar', [{ ...body, type: 'S' }], 'UNSUPPORTED'],
    [
      'sparse in the new way',
      [{ name: 'p', type: 'x', content: paxOf({ 'GNU.sparse.major': '1' }) }, body],
      'UNSUPPORTED',
    ],
    ['a link', [{ name: ONE.name, type: '2' }], 'UNSUPPORTED'],
    ['given twice', [body, body], 'CORRUPT'],
    ['longer than the file', [{ ...body, size: SIZE * 2 }], 'CORRUPT'],
    ['of a size that is no number', [{ ...body, size: Buffer.from('9z999999999\0') }], 'CORRUPT'],
    ['of a negative size', [{ ...body, size: Buffer.alloc(12, 0xff) }], 'CORRUPT'],
    [
      'of a size beyond all numbers',
      [{ name: 'p', type: 'x', content: paxOf({ size: '9'.repeat(30) }) }, body],
      'CORRUPT',
    ],
    ['behind a damaged pax header', [{ name: 'p', type: 'x', content: '99 path=x\n' }, body], 'CORRUPT'],
    ['under a size for all', [{ name: 'g', type: 'g', content: paxOf({ size: '1' }) }, body], 'UNSUPPORTED'],
    ['behind an endless name', [{ name: 'L', type: 'L', content: Buffer.alloc(70_000, 'x') }, body], 'LIMIT_EXCEEDED'],
  ])('whose disk is %s is refused', async (_, entries, code) => {
    expect((await refusal(() => readAll(written(tarOf([ovf, ...entries]))))).code).toBe(code)
  })

  test('of more members than any appliance has is refused', async () => {
    const entries = Array.from({ length: 5000 }, (_, index) => ({ name: `m${index}` }))
    expect((await refusal(() => readAll(written(tarOf([ovf, ...entries]))))).code).toBe('LIMIT_EXCEEDED')
  })

  test('whose headers are damaged is refused, whichever bit it is', async () => {
    const archive = tarOf([ovf, body])
    const header = archive.indexOf('disk1.img', 1024) // of the second member
    for (let bit = 0; bit < 512 * 8; bit += 101) {
      const damaged = Buffer.from(archive)
      const at = header + (bit >> 3)
      damaged[at] = (damaged[at] as number) ^ (1 << (bit & 7))
      expect((await refusal(() => readAll(written(damaged)))).code).toBe('CORRUPT')
    }
  })

  test('that is cut anywhere ends in an error that says so', async () => {
    const archive = tarOf([ovf, body], 0)
    for (let length = 512; length < archive.length; length += 1511) {
      const error = await refusal(() => readAll(written(archive.subarray(0, length))))
      expect(['CORRUPT', 'NOT_FOUND']).toContain(error.code)
    }
  })

  test('with a descriptor that expands is refused', async () => {
    const content = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Envelope>&b;</Envelope>'
    expect((await refusal(() => readAll(written(tarOf([{ name: 'a.ovf', content }, body]))))).code).toBe('UNSUPPORTED')
  })
})

describe('the check of an appliance', () => {
  async function codesOf(content: Uint8Array): Promise<string[]> {
    const { findings } = await finish(checkImage(written(content)))
    return findings.map(({ code }) => code)
  }

  test('finds nothing in a good one', async () => {
    const { findings, checked } = await finish(checkImage(written(applianceOf([ONE]))))
    expect(findings).toEqual([])
    expect(checked).toHaveLength(1)
  })

  test('finds a disk that is not what it was', async () => {
    const archive = applianceOf([ONE])
    archive[archive.length - 2048] = (archive[archive.length - 2048] as number) ^ 1
    expect(await codesOf(archive)).toEqual(['WRONG_DIGEST'])
  })

  test('finds what keeps importers from taking it', async () => {
    const ovf = { name: 'a.ovf', content: ovfOf([{ name: ONE.name, size: SIZE, capacity: SIZE }]) }
    expect(await codesOf(tarOf([ONE, ovf]))).toEqual(['WRONG_ORDER'])
    expect(await codesOf(tarOf([ovf, ONE], 0))).toEqual(['NO_END'])
    expect(await codesOf(applianceOf([ONE], [{ name: 'stray', content: 'x' }]))).toEqual(['NO_DIGEST'])
  })

  test('finds sizes and members that the descriptor has wrong', async () => {
    const disks = [
      { name: ONE.name, size: 1, capacity: SIZE },
      { name: 'gone.iso', size: 1, capacity: 0 },
    ]
    const ovf = {
      name: 'a.ovf',
      content: ovfOf(disks.slice(0, 1)).replace('</References>', '<File href="gone.iso" id="g"/></References>'),
    }
    expect(await codesOf(tarOf([ovf, ONE]))).toEqual(['WRONG_SIZE', 'MEMBER_MISSING'])
  })

  test('finds a manifest of nonsense', async () => {
    const ovf = { name: 'a.ovf', content: ovfOf([{ name: ONE.name, size: SIZE, capacity: SIZE }]) }
    const manifest = { name: 'a.mf', content: `MD5(x)= 00\nSHA256(gone)= ${'0'.repeat(64)}\n` }
    expect(await codesOf(tarOf([ovf, manifest, ONE]))).toEqual(['ODD_LINE', 'NO_DIGEST', 'NO_DIGEST', 'MEMBER_MISSING'])
  })
})

describe('an appliance from a stranger', () => {
  const ovf = { name: 'a.ovf', content: ovfOf([{ name: ONE.name, size: SIZE, capacity: SIZE }]) }

  async function concernsOf(content: Uint8Array): Promise<string[]> {
    const { findings } = await judgeImage(written(content))
    return findings.map(({ code }) => code)
  }

  /** A disk with a boot record, so that it is one without a doubt. */
  const BOOTABLE = { name: 'disk1.img', content: Buffer.alloc(SIZE) }
  BOOTABLE.content.writeUInt16LE(0xaa55, 510)
  BOOTABLE.content.writeUInt8(0x83, 446 + 4)
  BOOTABLE.content.writeUInt32LE(1, 446 + 8)
  BOOTABLE.content.writeUInt32LE(7, 446 + 12)

  test('is accepted with all its disks, and has their size', async () => {
    const { verdict, format, size, findings } = await judgeImage(written(applianceOf([BOOTABLE])))
    expect({ verdict, format, size, findings }).toEqual({ verdict: 'accept', format: 'ova', size: SIZE, findings: [] })
    const [first, second] = [BOOTABLE, { ...BOOTABLE, name: 'disk2.img' }]
    expect(await judgeImage(written(applianceOf([first, second])))).toMatchObject({ verdict: 'accept', size: 2 * SIZE })
  })

  test('that vdisk made is accepted', async () => {
    const folder = scratchFolder()
    const [disk, machine] = [path.join(folder, 'a.qcow2'), path.join(folder, 'a.ova')]
    await using source = await createDisk(disk, { format: 'qcow2', size: 5 << 20 })
    await source.write(70_000, Buffer.from(randomFor('content').bytes(300_000)))
    await finish(convertDisk(source.chain, machine, { format: 'ova' }))
    const { verdict, size, findings } = await judgeImage(machine)
    expect({ verdict, size, findings }).toEqual({ verdict: 'accept', size: 5 << 20, findings: [] })
  })

  const text = (extent: string, more = ''): string =>
    `# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType="monolithicFlat"\n${more}RW 8 ${extent}\n`

  test.each<[string, Disk[], string]>([
    [
      'a disk of other files',
      [{ name: 'd.vmdk', content: Buffer.from(text('FLAT "/etc/passwd" 0')) }],
      'EXTERNAL_DATA',
    ],
    [
      'a disk of other members',
      [BOOTABLE, { name: 'd.vmdk', content: Buffer.from(text('FLAT "disk1.img" 0')) }],
      'EXTERNAL_DATA',
    ],
    [
      'a disk with a parent',
      [{ name: 'd.vmdk', content: Buffer.from(text('FLAT "a" 0', 'parentFileNameHint="/x"\n')) }],
      'PARENT_REFERENCE',
    ],
    ['an appliance as its disk', [{ name: 'd.ova', content: applianceOf([ONE]) }], 'FORMAT_NOT_ALLOWED'],
    ['a compressed disk', [{ name: 'd.img', content: zlib.gzipSync(Buffer.alloc(5000)) }], 'NOT_JUDGED'],
    [
      'a damaged disk',
      [{ name: 'd.qcow2', content: Buffer.from('514649fb00000003'.padEnd(400, '0'), 'hex') }],
      'DAMAGED',
    ],
  ])('with %s is refused, and the disk is named', async (_, disks, code) => {
    const { verdict, findings } = await judgeImage(written(applianceOf(disks)))
    expect(verdict).toBe('refuse')
    const found = findings.find((one) => one.code === code)
    expect(found?.message).toContain(`In "${disks.at(-1)?.name}": `)
  })

  test('has disks within the bound, whose findings tell where in the file they are', async () => {
    const { verdict, findings } = await judgeImage(written(applianceOf([BOOTABLE])), { maxSize: 4096 })
    expect({ verdict, codes: findings.map(({ code }) => code) }).toEqual({
      verdict: 'refuse',
      codes: ['DISK_TOO_LARGE'],
    })
    const bad = { name: 'd.qcow2', content: Buffer.from('514649fb00000003'.padEnd(400, '0'), 'hex') }
    const archive = applianceOf([bad])
    const places = (await judgeImage(written(archive))).findings.map(({ at }) => at)
    expect(places).toContain(archive.indexOf(bad.content) + 100)
  })

  test('may not say that a disk is packed, or leave it away', async () => {
    const said = (more: string): Entry => ({
      name: 'a.ovf',
      content: ovfOf([{ name: ONE.name, size: SIZE, capacity: SIZE, more }]),
    })
    expect(await concernsOf(tarOf([said('ovf:compression="gzip"'), ONE]))).toContain('NOT_JUDGED')
    expect(await concernsOf(tarOf([said('')]))).toContain('INCOMPLETE')
  })

  test('of more disks than are looked at is refused', async () => {
    const disks = Array.from({ length: 65 }, (_, number) => ({
      name: `d${number}.img`,
      content: BOOTABLE.content.subarray(0, 4096),
    }))
    expect(await concernsOf(applianceOf(disks))).toEqual(['NOT_JUDGED'])
  })

  test.each<[string, Entry[], string]>([
    ['two members of one name', [ovf, ONE, ONE], 'COPIES_DIFFER'],
    ['a member that leads out', [ovf, { ...ONE, name: '../x' }], 'EXTERNAL_DATA'],
    ['a link', [ovf, ONE, { name: 'l', type: '2' }], 'EXTERNAL_DATA'],
    ['a sparse member', [ovf, { ...ONE, type: 'S' }], 'UNKNOWN_FEATURE'],
    [
      'a file of the host',
      [{ name: 'a.ovf', content: ovfOf([{ name: '/etc/passwd', size: 1, capacity: 1 }]) }],
      'EXTERNAL_DATA',
    ],
    ['a URL', [{ name: 'a.ovf', content: ovfOf([{ name: 'http://x/y', size: 1, capacity: 1 }]) }], 'EXTERNAL_DATA'],
    ['a descriptor that is none', [{ name: 'a.ovf', content: '<a><b></a>' }], 'DAMAGED'],
  ])('with %s is refused for it', async (_, entries, code) => {
    expect(await concernsOf(tarOf(entries))).toContain(code)
  })

  test('that is cut is refused for it', async () => {
    expect(await concernsOf(tarOf([ovf, ONE], 0))).toContain('TRUNCATED')
    expect(await concernsOf(tarOf([ovf, ONE]).subarray(0, 3000))).toEqual(['DAMAGED'])
  })

  randomTest('whatever is changed in it, ends in an answer or an error that says why', async (random) => {
    const good = applianceOf([{ name: 'd', content: Buffer.alloc(1024, 1) }])
    const file = written(good)
    for (let times = 0; times < 400; times++) {
      const damaged = Buffer.from(good)
      for (let changes = 1 + random.below(4); changes > 0; changes--) {
        damaged[random.below(4096)] = random.pick([0, 0xff, 0x80, 0x30, random.below(256)])
      }
      fs.writeFileSync(file, damaged.subarray(0, random.below(5) === 0 ? random.below(damaged.length) : damaged.length))
      for (const work of [() => readAll(file), () => finish(checkImage(file)), () => judgeImage(file)]) {
        try {
          await work()
        } catch (error) {
          if (!isVdiskError(error)) throw error
        }
      }
    }
  })
})
