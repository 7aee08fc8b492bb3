import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkImage, finish, inspectImage, judgeImage, openDisk } from '../../../../lib/index.ts'
import { CraftedDmg, type CraftedRun, listOf, packAdc, plist, RUN } from '../../../support/crafted-dmg.ts'
import { packableDisk } from '../../../support/packed-disks.ts'
import { describeWithPeers, runPeer } from '../../../support/peers.ts'
import { printSeed, Random, randomTest } from '../../../support/random.ts'
import { refusal } from '../../../support/refusal.ts'
import { scratchFolder } from '../../../support/temp.ts'

printSeed()

const SECTOR = 512

function written(image: CraftedDmg | Buffer, name = 'disk.dmg'): string {
  const file = path.join(scratchFolder(), name)
  fs.writeFileSync(file, image instanceof CraftedDmg ? image.bytes() : image)
  return file
}

function sectors(random: Random, count: number): Uint8Array {
  return packableDisk(random, count * SECTOR)
}

async function readAll(file: string): Promise<Uint8Array> {
  await using disk = await openDisk(file)
  const bytes = new Uint8Array(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function codesOf(file: string): Promise<string[]> {
  const { findings } = await finish(checkImage(file))
  return findings.map(({ code }) => code)
}

/** Two parts, runs of all kinds that need no other program. */
function sound(random = new Random(1)): CraftedDmg {
  const image = new CraftedDmg().part('Driver Descriptor Map (DDM : 0)').zlib(sectors(random, 8)).end().part('a disk')
  const adc = sectors(random, 100)
  image
    .run(RUN.plain, sectors(random, 20))
    .run(RUN.zeros, new Uint8Array(30 * SECTOR))
    .run(RUN.adc, adc, packAdc(adc))
  return image
    .run(RUN.ignored, new Uint8Array(9 * SECTOR))
    .zlib(sectors(random, 77))
    .end()
}

describe('a UDIF image', () => {
  randomTest('reads at any place, and its checksums are right', async (random) => {
    for (const asFork of [false, true]) {
      const image = sound(random)
      image.asFork = asFork
      const file = written(image)
      await using disk = await openDisk(file)
      expect(disk.size).toBe(image.content.length)
      for (let times = 0; times < 60; times++) {
        const offset = random.below(disk.size)
        const bytes = new Uint8Array(1 + random.below(Math.min(disk.size - offset, 40_000)))
        await disk.read(offset, bytes)
        expect(Buffer.compare(bytes, image.content.subarray(offset, offset + bytes.length))).toBe(0)
      }
      expect(await codesOf(file)).toEqual([])
    }
  })

  test('tells what its parts are, and how they are packed', async () => {
    const { format, size, details } = await inspectImage(written(sound()))
    expect({ format, size, details }).toEqual({
      format: 'dmg',
      size: 244 * SECTOR,
      details: { packing: 'zlib, ADC', parts: ['Driver Descriptor Map (DDM : 0)', 'a disk'] },
    })
  })

  test('its parts may be listed in any order, and its data stand in any order', async () => {
    const image = sound()
    image.tables.reverse()
    const [first, second] = [sectors(new Random(2), 4), sectors(new Random(3), 4)]
    image.part('behind').run(RUN.plain, first).run(RUN.plain, second)
    const [one, other] = image.table(-1).runs as [CraftedRun, CraftedRun]
    ;[one.at, other.at] = [other.at, one.at]
    image.data = Buffer.concat([image.data.subarray(0, -8 * SECTOR), second, first])
    const file = written(image)
    expect(Buffer.compare(await readAll(file), image.content)).toBe(0)
    expect(await codesOf(file)).toEqual([])
  })

  test('sectors that no run speaks of are zeros', async () => {
    const image = sound()
    image.table(1).runs.splice(0, 1)
    image.content.fill(0, 8 * SECTOR, 28 * SECTOR)
    expect(Buffer.compare(await readAll(written(image)), image.content)).toBe(0)
  })

  test('comments and runs of no sectors say nothing; what lies before the first run is zeros', async () => {
    const image = new CraftedDmg().part('').run(RUN.plain, new Uint8Array(8 * SECTOR).fill(1))
    image.run(RUN.plain, new Uint8Array(8 * SECTOR).fill(2))
    const [first] = image.table(0).runs.splice(0, 1)
    image.table(0).runs.unshift({ ...(first as NonNullable<typeof first>), kind: RUN.comment })
    image.table(0).runs.unshift({ ...(first as NonNullable<typeof first>), sectorCount: 0 })
    image.content.fill(0, 0, 8 * SECTOR)
    const file = written(image.end())
    expect(Buffer.compare(await readAll(file), image.content)).toBe(0)
    expect((await inspectImage(file)).details).toEqual({ packing: 'none', parts: [] })
  })

  test('is not written to', async () => {
    const file = written(sound())
    const before = fs.readFileSync(file)
    expect(await refusal(() => openDisk(file, { writable: true }))).toMatchObject({ code: 'UNSUPPORTED' })
    expect(Buffer.compare(fs.readFileSync(file), before)).toBe(0)
  })

  test('nothing speaks against it', async () => {
    const { verdict, format } = await judgeImage(written(sound()), { allow: ['dmg'] })
    expect({ verdict, format }).toEqual({ verdict: 'accept', format: 'dmg' })
  })
})

describeWithPeers(['bzip2', 'xz'], 'runs packed by bzip2 and xz', () => {
  test('read as they were, and the image begins as no bzip2 file does', async () => {
    const image = new CraftedDmg().part('all')
    for (const [kind, tool] of [
      [RUN.bzip2, 'bzip2'],
      [RUN.xz, 'xz'],
    ] as const) {
      const content = sectors(new Random(kind), 300)
      image.run(kind, content, execFileSync(tool, ['-c'], { input: content }))
    }
    const file = written(image.end())
    expect(Buffer.compare(await readAll(file), image.content)).toBe(0)
    expect(await codesOf(file)).toEqual([])
    expect((await inspectImage(file)).wrapping).toBeUndefined()
  })
})

describeWithPeers(['qemu-img'], 'what qemu reads', () => {
  randomTest('we read alike', async (random) => {
    const image = new CraftedDmg().part('all').zlib(sectors(random, 100)).run(RUN.plain, sectors(random, 50))
    const file = written(
      image
        .run(RUN.zeros, new Uint8Array(20 * SECTOR))
        .zlib(sectors(random, 30))
        .end(),
    )
    runPeer('qemu-img', ['convert', '-f', 'dmg', '-O', 'raw', file, `${file}.raw`])
    expect(Buffer.compare(fs.readFileSync(`${file}.raw`), await readAll(file))).toBe(0)
  })
})

describe('what is refused by name', () => {
  test.each([
    ['a part of several files', sound(), { at: 60, width: 4, value: 3 }, 'UNSUPPORTED', 'segments'],
    ['another version', sound(), { at: 4, width: 4, value: 5 }, 'UNSUPPORTED', 'version 5'],
  ] as const)('%s', async (_, image, field, code, words) => {
    image.trailer.push(field)
    const error = await refusal(() => openDisk(written(image)))
    expect(error.code).toBe(code)
    expect(error.message).toContain(words)
  })

  test.each([
    ['version 2', Buffer.concat([Buffer.from('encrcdsa'), Buffer.alloc(4096)])],
    ['version 1', Buffer.concat([Buffer.alloc(4096), Buffer.from('cdsaencr')])],
  ])('an encrypted image of %s', async (_, bytes) => {
    const error = await refusal(() => openDisk(written(bytes)))
    expect(error).toMatchObject({ code: 'UNSUPPORTED' })
    expect(error.message).toContain('encrypted')
  })

  test('a kind of run that nobody knows', async () => {
    const image = sound()
    image.table(1).run(0).kind = 0x80000003
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'UNSUPPORTED' })
  })

  test('bytes that only have the name', async () => {
    const file = written(Buffer.from(new Random(3).bytes(65536)))
    expect(await refusal(() => openDisk(file, { format: 'dmg' }))).toMatchObject({ code: 'NOT_THIS_FORMAT' })
  })
})

describe('counts and sizes beyond reason', () => {
  const FAR = [2 ** 31, 2 ** 32 - 1, 2 ** 40, 2 ** 53, 2n ** 63n, 2n ** 64n - 1n] as const

  test.each([
    ['list', 216],
    ['length of the list', 224],
    ['data fork', 24],
    ['length of the data fork', 32],
    ['sectors of the disk', 492],
  ])('%s: refused or told, and what can be read is read', async (_, at) => {
    for (const value of FAR) {
      const image = sound()
      image.trailer.push({ at, width: 8, value })
      const file = written(image)
      try {
        await using disk = await openDisk(file)
        if (at === 32) expect(await codesOf(file)).toContain('DATA_FORK_PAST_END')
        await disk.read(0, new Uint8Array(SECTOR))
      } catch (error) {
        expect(error).toMatchObject({ code: expect.stringMatching(/^(CORRUPT|LIMIT_EXCEEDED)$/) })
      }
    }
  })

  test('a table that says it has more runs than it has', async () => {
    for (const count of [100, 2 ** 31, 2 ** 32 - 1]) {
      const image = sound()
      image.table(0).count = count
      const { code } = await refusal(() => openDisk(written(image)))
      expect(['CORRUPT', 'LIMIT_EXCEEDED']).toContain(code)
    }
  })

  test('a run that would unpack to more than any', async () => {
    const image = sound()
    const table = image.table(1)
    table.sectorCount = 2 ** 20
    table.run(-2).sectorCount = 2 ** 19
    image.content = Buffer.alloc(0)
    image.trailer.push({ at: 492, width: 8, value: 2 ** 21 })
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'LIMIT_EXCEEDED' })
  })

  test('a bomb: a run that holds more than it says fails, and takes no more room', async () => {
    const image = new CraftedDmg()
      .part('all')
      .zlib(new Uint8Array(32 << 20))
      .end()
    const table = image.table(0)
    table.run(0).sectorCount = 1
    table.sectorCount = 1
    image.trailer.push({ at: 492, width: 8, value: 1 })
    expect(await refusal(() => readAll(written(image)))).toMatchObject({ code: 'CORRUPT' })
  })

  test('a property list with elements inside one another without end', async () => {
    const image = sound()
    image.list = plist(`<key>a</key>${'<array>'.repeat(10_000)}${'</array>'.repeat(10_000)}`)
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'LIMIT_EXCEEDED' })
  })

  test('a property list with entities', async () => {
    const image = sound()
    const text = listOf(image.tables)
      .toString()
      .replace(/<!DOCTYPE[^>]*>/, '<!DOCTYPE plist [<!ENTITY a "b">]>')
    image.list = Buffer.from(text)
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'UNSUPPORTED' })
  })

  test.each([
    ['no property list at all', Buffer.from('no XML')],
    ['one without tables', plist('')],
    ['tables that are none', plist('<key>resource-fork</key><dict><key>blkx</key><string>x</string></dict>')],
    ['a table without data', plist('<key>resource-fork</key><dict><key>blkx</key><array><dict/></array></dict>')],
    ['a value without a key', plist('<string>x</string>')],
    ['a key with two values', plist('<key>a</key><true/><key>a</key><false/>')],
  ])('%s', async (_, list) => {
    const image = sound()
    image.list = list
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'CORRUPT' })
  })
})

describe('damage that a check tells', () => {
  test('runs of which both say what lies at a place are refused', async () => {
    const image = sound()
    image.table(1).run(2).firstSector = 40
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'CORRUPT' })
  })

  test('tables of which both speak of a sector are refused', async () => {
    const image = sound()
    image.table(1).firstSector = 4
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'CORRUPT' })
  })

  test.each<[string, (image: CraftedDmg) => void, string]>([
    ['a plain run of which less is there', (image) => (image.table(1).run(0).storedLength -= 1), 'has only'],
    ['runs beyond the disk', (image) => image.trailer.push({ at: 492, width: 8, value: 100 }), 'its disk has 51200'],
    ['a table that does not begin as one', (image) => (image.table(1).signature = 'misch'), 'does not begin as one'],
    [
      'no list of tables at all',
      (image) => image.trailer.push({ at: 216, width: 8, value: 0 }, { at: 224, width: 8, value: 0 }),
      'no list of what lies where',
    ],
  ])('%s is refused', async (_, damage, why) => {
    const image = sound()
    damage(image)
    const error = await refusal(() => openDisk(written(image)))
    expect([error.code, error.message]).toEqual(['CORRUPT', expect.stringContaining(why)])
  })

  test('a table in a resource fork that lies outside of it, or is longer, is refused; other resources are passed over', async () => {
    const image = sound()
    image.asFork = true
    const bytes = image.bytes()
    const fork = image.data.length
    const map = fork + bytes.readUInt32BE(fork + 4)
    const changed = (at: number, value: number): string => {
      const copy = Buffer.from(bytes)
      copy.writeUInt32BE(value, at)
      return written(copy)
    }
    for (const [at, value] of [
      // The place of the first table in the fork's data, and its length.
      [map + 28 + 10 + 4, 0xffffff],
      [fork + 256, 0x7fffffff],
    ] as const)
      expect(await refusal(() => openDisk(changed(at, value)))).toMatchObject({
        code: 'CORRUPT',
        where: { structure: 'resource fork' },
      })
    // Its tables are of another type now: there are none.
    await using none = await openDisk(changed(map + 30, 0x70696374))
    const content = new Uint8Array(none.size).fill(1)
    await none.read(0, content)
    expect(content.every((byte) => byte === 0)).toBe(true)
  })

  test('a run beyond its table is refused', async () => {
    const image = sound()
    image.table(0).sectorCount = 7
    expect(await refusal(() => openDisk(written(image)))).toMatchObject({ code: 'CORRUPT' })
  })

  test('two runs at the same place in the file are told: no other tool looks', async () => {
    const image = sound()
    const table = image.table(1)
    table.run(4).at = table.run(2).at
    expect(await codesOf(written(image))).toContain('RUNS_CROSS')
  })

  test('two packed runs at the same place: neither reads as the other', async () => {
    const image = new CraftedDmg()
      .part('all')
      .zlib(new Uint8Array(SECTOR).fill(1))
      .zlib(new Uint8Array(8 * SECTOR).fill(2))
    const [first, second] = [image.table(0).run(0), image.table(0).run(1)]
    second.at = first.at
    second.storedLength = first.storedLength
    await using disk = await openDisk(written(image.end()))
    await disk.read(0, new Uint8Array(SECTOR))
    expect(await refusal(() => disk.read(SECTOR, new Uint8Array(8 * SECTOR)))).toMatchObject({ code: 'CORRUPT' })
  })

  test('a part whose content is not what its checksum says is told: no other tool on this system looks', async () => {
    const image = sound()
    image.data[image.table(1).run(0).at + 100] = 0x55 ^ (image.data[image.table(1).run(0).at + 100] as number)
    // The sum of the file's data is made after the damage, so it fits.
    expect(await codesOf(written(image))).toEqual(['TABLE_CHECKSUM_WRONG'])
  })

  test('the sum of the sums, and of the data', async () => {
    const image = sound()
    image.trailer.push({ at: 360, width: 4, value: 1 }, { at: 88, width: 4, value: 2 })
    expect(await codesOf(written(image))).toEqual(['DATA_CHECKSUM_WRONG', 'MASTER_CHECKSUM_WRONG'])
  })

  test('nothing of sums that are of no kind we know', async () => {
    const image = sound()
    for (const at of [80, 352]) image.trailer.push({ at, width: 4, value: 5 })
    image.trailer.push({ at: 88, width: 4, value: 1 }, { at: 360, width: 4, value: 1 })
    expect(await codesOf(written(image))).toEqual([])
  })

  test('a run past the end fails where it is read, and nowhere else', async () => {
    const image = sound()
    image.table(1).run(4).at = 2 ** 40
    const file = written(image)
    await using disk = await openDisk(file)
    const bytes = new Uint8Array(28 * SECTOR)
    await disk.read(0, bytes)
    expect(Buffer.compare(bytes, image.content.subarray(0, bytes.length))).toBe(0)
    expect(await refusal(() => disk.read(disk.size - SECTOR, new Uint8Array(SECTOR)))).toMatchObject({
      code: 'CORRUPT',
    })
    expect(await codesOf(file)).toContain('RUN_DAMAGED')
  })

  test('packed data that is damaged names the run', async () => {
    const image = sound()
    const { at, storedLength } = image.table(1).run(4)
    image.data.fill(0xff, at + 4, at + storedLength)
    const error = await refusal(() => readAll(written(image)))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { at, offset: 167 * SECTOR } })
  })
})
