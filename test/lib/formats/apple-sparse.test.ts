import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { asif } from '../../../lib/formats/asif/driver.ts'
import { checkImage, finish, inspectImage, openDisk } from '../../../lib/index.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { ASIF, bundleDescription, CraftedSparseImage, craftedAsif } from '../../support/apple-images.ts'
import { plist } from '../../support/crafted-dmg.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { packableDisk } from '../../support/packed-disks.ts'
import { printSeed, Random, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const FAR = [2 ** 31, 2 ** 32 - 1, 2 ** 40, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n] as const

function written(bytes: Uint8Array, name: string): string {
  const file = path.join(scratchFolder(), name)
  fs.writeFileSync(file, bytes)
  return file
}

async function expectReads(file: string, disk: Uint8Array, random: Random): Promise<void> {
  await using opened = await openDisk(file)
  expect(opened.size).toBe(disk.length)
  const whole = new Uint8Array(opened.size)
  await opened.read(0, whole)
  expect(Buffer.compare(whole, disk)).toBe(0)
  for (let times = 0; times < 40; times++) {
    const offset = random.below(opened.size)
    const bytes = new Uint8Array(1 + random.below(Math.min(opened.size - offset, 30_000)))
    await opened.read(offset, bytes)
    expect(Buffer.compare(bytes, disk.subarray(offset, offset + bytes.length))).toBe(0)
  }
}

async function codesOf(file: string): Promise<string[]> {
  const { findings } = await finish(checkImage(file))
  return findings.map(({ code }) => code)
}

/** A disk of which some pieces are zeros, and those that are not in an order of chance. */
function scattered(random: Random, pieces: number, pieceSize: number, last = pieceSize): [Uint8Array, number[]] {
  const disk = packableDisk(random, (pieces - 1) * pieceSize + last)
  const there = Array.from({ length: pieces }, (_, piece) => piece).filter((piece) => piece === 0 || random.chance(0.6))
  for (let piece = 0; piece < pieces; piece++) {
    if (!there.includes(piece)) disk.fill(0, piece * pieceSize, (piece + 1) * pieceSize)
  }
  for (let i = there.length - 1; i > 0; i--) {
    const other = random.below(i + 1)
    const [a, b] = [there[i] as number, there[other] as number]
    there[i] = b
    there[other] = a
  }
  return [disk, there]
}

describe('sparseimage', () => {
  const BAND = 4096
  const made = (random: Random): [Uint8Array, CraftedSparseImage] => {
    const [disk, bands] = scattered(random, 40, BAND, 512 * (1 + random.below(8)))
    return [disk, new CraftedSparseImage(disk, BAND, [undefined, ...bands])]
  }

  randomTest('reads at any place, and a check finds nothing', async (random) => {
    const [disk, image] = made(random)
    const file = written(image.file.bytes, 'disk.sparseimage')
    await expectReads(file, disk, random)
    expect(await codesOf(file)).toEqual([])
    expect((await inspectImage(file)).details).toEqual({ version: 3, bandSize: BAND })
  })

  test('goes on in further nodes', async () => {
    const random = new Random(5)
    const disk = packableDisk(random, 2200 * BAND)
    const bands = Array.from({ length: 2200 }, (_, band) => 2199 - band)
    await expectReads(written(new CraftedSparseImage(disk, BAND, bands).file.bytes, 'a'), disk, random)
  })

  test('a band in two places is refused: no other tool looks', async () => {
    const [, image] = made(new Random(1))
    image.file.u32(64 + 8, image.file.bytes.readUInt32BE(64 + 4))
    expect(await refusal(() => openDisk(written(image.file.bytes, 'a')))).toMatchObject({ code: 'CORRUPT' })
  })

  test('a file that is cut off fails where it is read, and a check tells', async () => {
    const [disk, image] = made(new Random(2))
    const last = image.file.bytes.readUInt32BE(64 + 4 * 10) - 1
    const file = written(image.file.bytes.subarray(0, image.roomAt(10)), 'a')
    await using opened = await openDisk(file)
    expect(await refusal(() => opened.read(last * BAND, new Uint8Array(512)))).toMatchObject({ code: 'CORRUPT' })
    const first = image.file.bytes.readUInt32BE(64 + 4) - 1
    const bytes = new Uint8Array(512)
    await opened.read(first * BAND, bytes)
    expect(Buffer.compare(bytes, disk.subarray(first * BAND, first * BAND + 512))).toBe(0)
    expect(await codesOf(file)).toContain('BAND_PAST_END')
  })

  test('a band that the disk does not have is told: no other tool looks', async () => {
    const [, image] = made(new Random(3))
    image.file.u32(64, 41)
    expect(await codesOf(written(image.file.bytes, 'a'))).toEqual(['BAND_BEYOND_DISK'])
  })

  test('nodes without end are not followed', async () => {
    const [, image] = made(new Random(8))
    const end = image.file.bytes.length
    image.file.resize(end + 50 * 4096).u64(20, end)
    for (let node = 0; node < 50; node++) {
      const at = end + node * 4096
      image.file.text(at, 'sprs').u64(at + 12, node === 49 ? 0 : at + 4096)
    }
    expect(await refusal(() => openDisk(written(image.file.bytes, 'a')))).toMatchObject({ code: 'CORRUPT' })
  })

  test('another version is refused, and so is a node that does not begin as one', async () => {
    const [, image] = made(new Random(9))
    const end = image.file.bytes.length
    image.file.resize(end + 4096).u64(20, end)
    const noNode = await refusal(() => openDisk(written(image.file.bytes, 'a')))
    expect(noNode).toMatchObject({ code: 'CORRUPT', where: { structure: 'header' } })
    expect(noNode.message).toContain(`what lies at ${end} is no node`)
    image.file.u32(4, 2)
    const error = await refusal(() => openDisk(written(image.file.bytes, 'a.sparseimage')))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toContain('version 2')
    expect(error.advice).toContain('on a Mac')
  })

  test('an older one tells its size only where it was told first', async () => {
    const [disk, image] = made(new Random(10))
    image.file.u64(28, 0)
    await expectReads(written(image.file.bytes, 'a'), disk, new Random(1))
  })

  test('nodes that come back, counts and sizes beyond reason', async () => {
    for (const [at, width] of [
      [8, 4],
      [20, 8],
      [28, 8],
    ] as const) {
      for (const value of FAR) {
        const [, image] = made(new Random(4))
        if (width === 4) image.file.u32(at, Number(BigInt.asUintN(32, BigInt(value))))
        else image.file.u64(at, value)
        if (width === 4 && image.file.bytes.readUInt32BE(at) === 0) continue
        const { code, advice } = await refusal(() => openDisk(written(image.file.bytes, 'a')))
        expect(['CORRUPT', 'LIMIT_EXCEEDED']).toContain(code)
        expect(advice).toContain('another copy')
      }
    }
    const [, image] = made(new Random(4))
    image.file.u64(20, 64)
    expect(await refusal(() => openDisk(written(image.file.bytes, 'a')))).toMatchObject({ code: 'CORRUPT' })
  })
})

describe('sparsebundle', () => {
  const BAND = 8192

  /** A bundle whose bands may be shorter than they could be. */
  function bundle(
    disk: Uint8Array,
    bands: readonly number[],
    description = bundleDescription(BAND, disk.length),
  ): string {
    const folder = path.join(scratchFolder(), 'disk.sparsebundle')
    fs.mkdirSync(path.join(folder, 'bands'), { recursive: true })
    fs.writeFileSync(path.join(folder, 'Info.plist'), description)
    fs.writeFileSync(path.join(folder, 'token'), '')
    for (const band of bands) {
      let bytes = disk.subarray(band * BAND, (band + 1) * BAND)
      while (bytes.at(-1) === 0) bytes = bytes.subarray(0, -1)
      fs.writeFileSync(path.join(folder, 'bands', band.toString(16)), bytes)
    }
    return folder
  }

  randomTest('reads at any place, by the name of the folder or of its description', async (random) => {
    const [disk, bands] = scattered(random, 100, BAND, 512 * (1 + random.below(16)))
    const folder = bundle(disk, bands)
    await expectReads(folder, disk, random)
    await expectReads(path.join(folder, 'Info.plist'), disk, random)
    expect((await inspectImage(folder)).format).toBe('sparsebundle')
  })

  test('reads in many places at once', async () => {
    const random = new Random(6)
    const [disk, bands] = scattered(random, 100, BAND)
    await using opened = await openDisk(bundle(disk, bands), { waiting: 'defer' })
    await Promise.all(
      Array.from({ length: 300 }, async () => {
        const offset = random.below(disk.length - 20_000)
        const bytes = new Uint8Array(20_000)
        await opened.read(offset, bytes)
        expect(Buffer.compare(bytes, disk.subarray(offset, offset + bytes.length))).toBe(0)
      }),
    )
  })

  test('a band that is a link out of the folder is not followed', async () => {
    const [disk, bands] = scattered(new Random(7), 4, BAND)
    const folder = bundle(disk, bands)
    const secret = written(Buffer.alloc(BAND, 1), 'secret')
    fs.rmSync(path.join(folder, 'bands', '0'))
    fs.symlinkSync(secret, path.join(folder, 'bands', '0'))
    await using opened = await openDisk(folder)
    expect(await refusal(() => opened.read(0, new Uint8Array(512)))).toMatchObject({ code: 'REFUSED' })
  })

  test('an encrypted one is refused by name', async () => {
    const folder = bundle(new Uint8Array(BAND), [])
    fs.writeFileSync(path.join(folder, 'token'), 'encrcdsa, and so on')
    const error = await refusal(() => openDisk(folder))
    expect(error).toMatchObject({ code: 'UNSUPPORTED' })
    expect(error.message).toContain('encrypted')
    expect(error.advice).toContain('Decrypt it on a Mac')
  })

  test('a token that is a link out of the folder is not followed', async () => {
    const folder = bundle(new Uint8Array(BAND), [])
    fs.rmSync(path.join(folder, 'token'))
    fs.symlinkSync(written(Buffer.from('encrcdsa'), 'secret'), path.join(folder, 'token'))
    expect(await refusal(() => openDisk(folder))).toMatchObject({ code: 'REFUSED' })
  })

  test('without a token it is not encrypted; described as something else it is none', async () => {
    const [disk, bands] = scattered(new Random(11), 4, BAND)
    const folder = bundle(disk, bands)
    fs.rmSync(path.join(folder, 'token'))
    await expectReads(folder, disk, new Random(1))
    fs.writeFileSync(path.join(folder, 'Info.plist'), plist('<key>diskimage-bundle-type</key><string>other</string>'))
    const opened = openDisk(path.join(folder, 'Info.plist'), { format: 'sparsebundle' })
    const none = await refusal(() => opened)
    expect(none).toMatchObject({ code: 'NOT_THIS_FORMAT', where: { structure: 'Info.plist' } })
    expect(none.advice).toContain('vdisk inspect')
  })

  test.each([
    ['bands of no bytes', bundleDescription(0, BAND)],
    ['bands of odd length', bundleDescription(1000, BAND)],
    ['bands of more than all', bundleDescription(2 ** 41, BAND)],
    ['a size below zero', bundleDescription(BAND, -512)],
    ['a size that is a little beyond reason', bundleDescription(BAND, 2 ** 53 - 1)],
    ['a size that is none', bundleDescription(BAND, 'large')],
    ['a size beyond reason', bundleDescription(BAND, '9223372036854775807')],
    [
      'elements inside one another without end',
      Buffer.concat([bundleDescription(BAND, BAND), Buffer.from('<a>'.repeat(1000) + '</a>'.repeat(1000))]),
    ],
    [
      'entities',
      Buffer.from(
        bundleDescription(BAND, BAND)
          .toString()
          .replace(/<!DOCTYPE[^>]*>/, '<!DOCTYPE plist [<!ENTITY a "b">]>'),
      ),
    ],
    ['no size', plist('<key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string>')],
    ['more than a description', Buffer.concat([bundleDescription(BAND, BAND), Buffer.alloc(1 << 20, 32)])],
  ])('%s', async (_, description) => {
    const { code, advice } = await refusal(() => openDisk(bundle(new Uint8Array(BAND), [0], description)))
    expect(['CORRUPT', 'LIMIT_EXCEEDED', 'UNSUPPORTED']).toContain(code)
    expect(advice).toMatch(code === 'UNSUPPORTED' ? /write it again/ : /copy/)
  })
})

describe('asif', () => {
  const made = (random: Random) => {
    const [disk, chunks] = scattered(random, 30, ASIF.chunk, 512 * (1 + random.below(60)))
    return { disk, image: craftedAsif(disk, chunks), chunks }
  }

  randomTest('reads at any place, and a check finds nothing', async (random) => {
    const { disk, image } = made(random)
    const file = written(image.bytes, 'disk.asif')
    await expectReads(file, disk, random)
    expect(await codesOf(file)).toEqual([])
  })

  test('entries of another kind stand between groups, and tables that are not there are zeros', async () => {
    const { chunk, group, perTable } = ASIF
    const { image } = made(new Random(1))
    const size = 3 * perTable * chunk
    image.u64(48, size / 512)
    // Of the third table: its first and its last chunk.
    const table = image.bytes.length / chunk
    image.resize((table + 2) * chunk)
    image.u64(ASIF.directory * chunk + 8 + 16, table).fill((table + 1) * chunk, chunk, 9)
    const last = table * chunk + 8 * (perTable - 1 + 2)
    image.u64(last, table + 1).u64(table * chunk + 8 * group, 12345)
    const file = written(image.bytes, 'disk.asif')
    await using opened = await openDisk(file)
    const bytes = new Uint8Array(2 * chunk)
    await opened.read(size - 2 * chunk, bytes)
    expect(bytes.subarray(0, chunk).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(chunk).every((byte) => byte === 9)).toBe(true)
    await opened.read(perTable * chunk, bytes)
    expect(bytes.every((byte) => byte === 0)).toBe(true)
    expect(await codesOf(file)).toEqual([])
  })

  test('the directory of the higher version counts, and one that is not there does not', async () => {
    const { disk, image } = made(new Random(2))
    image.u64(ASIF.secondDirectory * ASIF.chunk, 8)
    await expectReads(written(image.bytes, 'a'), new Uint8Array(disk.length), new Random(1))
    image.u64(24, 2 ** 40)
    await expectReads(written(image.bytes, 'a'), disk, new Random(1))
  })

  test('chunks at the same place, and past the end, are told: no other tool looks', async () => {
    const { image, chunks } = made(new Random(3))
    const entry = (i: number): number => ASIF.table * ASIF.chunk + 8 * (chunks[i] as number)
    image.u64(entry(1), ASIF.data)
    image.u64(entry(2), 2 ** 30)
    const file = written(image.bytes, 'a')
    expect((await codesOf(file)).sort()).toEqual(['CHUNKS_OVERLAP', 'CHUNK_PAST_END'])
    await using opened = await openDisk(file)
    const read = opened.read((chunks[2] as number) * ASIF.chunk, new Uint8Array(512))
    expect(await refusal(() => read)).toMatchObject({ code: 'CORRUPT' })
  })

  test('more tables than the directory has room for are refused, and one table of many parts is looked at once', async () => {
    const { chunk, perTable, directory, table } = ASIF
    const { image } = made(new Random(9))
    image.u64(48, 2 ** 40)
    expect(await refusal(() => openDisk(written(image.bytes, 'a')))).toMatchObject({ code: 'CORRUPT' })
    image.u64(48, (5 * perTable * chunk) / 512)
    for (let part = 1; part < 5; part++) image.u64(directory * chunk + 8 + 8 * part, table)
    expect(await codesOf(written(image.bytes, 'a'))).toEqual(Array(4).fill('CHUNKS_OVERLAP'))
  })

  test('a table past the end is told, and what it has is not read', async () => {
    const { image } = made(new Random(4))
    image.u64(ASIF.directory * ASIF.chunk + 8, 2 ** 30)
    const file = written(image.bytes, 'a')
    expect(await codesOf(file)).toEqual(['CHUNK_PAST_END'])
    await using opened = await openDisk(file)
    expect(await refusal(() => opened.read(0, new Uint8Array(512)))).toMatchObject({ code: 'CORRUPT' })
  })

  test('a table that is cut off is told, with all of the disk that is lost', async () => {
    const { image } = made(new Random(6))
    const file = written(image.bytes.subarray(0, ASIF.table * ASIF.chunk + 8 * 4), 'a')
    const { findings } = await finish(checkImage(file))
    expect(findings.at(-1)).toMatchObject({ code: 'TABLE_PAST_END', at: ASIF.table * ASIF.chunk + 8 * 4 })
    expect(findings.at(-1)?.guest?.offset).toBe(4 * ASIF.chunk)
  })

  test('a check does not take a medium that fails for damage', async () => {
    const { image } = made(new Random(7))
    const inner = new MemoryStore('a', { content: image.bytes, writable: false })
    const store = watchedStore(inner, ({ kind, at }) => {
      if (kind === 'read' && at >= ASIF.table * ASIF.chunk)
        throw new VdiskError('IO', { message: 'Cannot read: a test' })
    })
    const folder = new MemoryFolder()
    folder.files.set('a', store)
    const layer = await promised(asif.open(folder.image('a'), 'read'))
    expect(await refusal(() => promised(asif.check(layer, new CheckReport())))).toMatchObject({ code: 'IO' })
  })

  test.each([
    ['chunks that have no room for a group of entries', 'chunks of 512 bytes', 64, 4, [512]],
    ['directories over the header, or past the end', 'neither of its directories', 16, 8, [8, 2 ** 40]],
    ['directories that begin between entries', 'where entries can', 16, 8, [0x20002, 0x30004]],
    ['sectors that are no sectors', 'in sectors of 516', 64, 4, [0x10200, 516 << 16]],
  ] as const)('%s', async (_, words, at, width, values) => {
    const { image } = made(new Random(8))
    for (const [i, value] of values.entries()) {
      if (width === 4) image.u32(at + 4 * i, value)
      else image.u64(at + 8 * i, value)
    }
    const error = await refusal(() => openDisk(written(image.bytes, 'a.asif')))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'header', at: 0 } })
    expect(error.message).toContain(words)
  })

  test.each([
    ['another version', 4, 4],
    ['several files', 70, 2],
    ['no chunks', 64, 4],
    ['sizes of chunks', 64, 4],
    ['a disk beyond its bound', 56, 8],
    ['sectors of the disk', 48, 8],
    ['no sectors', 68, 2],
  ] as const)('%s', async (title, at, width) => {
    for (const value of title.startsWith('no ') ? [0] : FAR) {
      const { image } = made(new Random(5))
      const number = BigInt.asUintN(8 * width, title.startsWith('a disk') ? 1n : BigInt(value))
      if (title === 'sectors of the disk') image.u64(56, number)
      if (width === 8) image.u64(at, number)
      else if (width === 4) image.u32(at, Number(number))
      else image.u16(at, Number(number) || (title.startsWith('no ') ? 0 : 2))
      if (width === 4 && number === 1n) continue
      const file = written(image.bytes, 'a')
      try {
        await using opened = await openDisk(file)
        // A disk may be very large: what is read of it is bounded all the same.
        expect(title).toBe('sectors of the disk')
        await opened.read(0, new Uint8Array(512))
      } catch (error) {
        expect(error).toMatchObject({ code: expect.stringMatching(/^(CORRUPT|LIMIT_EXCEEDED|UNSUPPORTED)$/) })
        const { code, advice } = error as VdiskError
        expect(advice).toContain(code === 'UNSUPPORTED' ? 'on a Mac' : 'another copy')
      }
    }
  })
})

describe('what is said to be one of these and is none', () => {
  test.each(['sparseimage', 'asif'])('%s: a file that is too short, and one that begins as another', async (format) => {
    for (const bytes of [new Uint8Array(100), new Uint8Array(1 << 16).fill(7)]) {
      const file = written(bytes, `disk.${format}`)
      const error = await refusal(() => openDisk(file, { format }))
      expect(error.code).toBe('NOT_THIS_FORMAT')
      expect(error.advice).toContain('vdisk inspect')
    }
  })
})
