import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { isVdiskError } from '../../../lib/errors.ts'
import { createDisk, createLayer, inspectImage, judgeImage, openDisk } from '../../../lib/index.ts'
import { loadZstd } from '../../../lib/io/zstd.ts'
import { bgzf, packableDisk } from '../../support/packed-disks.ts'
import { zstdSeekTable } from '../../support/packed-streams.ts'
import { describeWithPeers } from '../../support/peers.ts'
import { printSeed, randomFor, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const SIZE = 300 * 1024

function written(name: string, content: Uint8Array): string {
  const file = path.join(scratchFolder(), name)
  fs.writeFileSync(file, content)
  return file
}

async function readAll(file: string, format?: string): Promise<Uint8Array> {
  await using disk = await openDisk(file, format === undefined ? {} : { format })
  const bytes = new Uint8Array(disk.size)
  await disk.read(0, bytes)
  return bytes
}

function expectEqual(found: Uint8Array, wanted: Uint8Array): void {
  expect(found.length).toBe(wanted.length)
  expect(Buffer.compare(found, wanted)).toBe(0)
}

describe('a compressed file', () => {
  randomTest('reads as the disk inside, at any place', async (random) => {
    const content = packableDisk(random, SIZE)
    for (const packed of [zlib.gzipSync(content), bgzf(content), bgzf(content, 1000)]) {
      await using disk = await openDisk(written('disk.raw.gz', packed))
      expect(disk.size).toBe(SIZE)
      for (let times = 0; times < 50; times++) {
        const offset = random.below(SIZE)
        const bytes = new Uint8Array(1 + random.below(Math.min(SIZE - offset, 70_000)))
        await disk.read(offset, bytes)
        expectEqual(bytes, content.subarray(offset, offset + bytes.length))
      }
    }
  })

  test('is told of by info, with the size of the file and of the disk', async () => {
    const packed = bgzf(new Uint8Array(SIZE))
    const { format, size, fileSize, wrapping } = await inspectImage(written('disk.raw.gz', packed))
    expect({ format, size, fileSize, wrapping }).toEqual({
      format: 'raw',
      size: SIZE,
      fileSize: packed.length,
      wrapping: { container: 'gzip', member: undefined },
    })
  })

  test('holds an image of any format', async () => {
    const file = path.join(scratchFolder(), 'disk.qcow2')
    await using disk = await createDisk(file, { format: 'qcow2', size: 1 << 20 })
    await disk.write(4096, Buffer.from('inside'))
    await disk.close()
    fs.writeFileSync(`${file}.gz`, zlib.gzipSync(fs.readFileSync(file)))
    const found = await readAll(`${file}.gz`)
    expect(Buffer.from(found.subarray(4096, 4102)).toString()).toBe('inside')
    expect((await inspectImage(`${file}.gz`)).format).toBe('qcow2')
  })

  test('can be the parent of another image', async () => {
    const content = packableDisk(randomFor('parent'), SIZE - (SIZE % 512))
    const base = written('base.raw.gz', zlib.gzipSync(content))
    const child = path.join(path.dirname(base), 'child.qcow2')
    await createLayer(base, child, { parentFormat: 'raw' })
    expectEqual(await readAll(child), content)
  })

  test('is not written to', async () => {
    const file = written('disk.raw.gz', zlib.gzipSync(new Uint8Array(SIZE)))
    const before = fs.readFileSync(file)
    for (const options of [{ writable: true }, { writable: true, format: 'raw' }]) {
      expect(await refusal(() => openDisk(file, options))).toMatchObject({ code: 'READ_ONLY' })
    }
    expect(Buffer.compare(fs.readFileSync(file), before)).toBe(0)
  })

  test('is judged as what cannot be judged', async () => {
    const { verdict, format, findings } = await judgeImage(written('disk', zlib.gzipSync(new Uint8Array(SIZE))))
    expect({ verdict, format }).toEqual({ verdict: 'refuse', format: 'gzip' })
    expect(findings.map(({ code }) => code)).toContain('NOT_JUDGED')
  })
})

describe('what only looks like a container', () => {
  const disguised = zlib.gzipSync(Buffer.from('a guest wrote this'))

  test('a raw disk, said to be raw, whose guest wrote gzip data to its beginning', async () => {
    expectEqual(await readAll(written('disk.img', disguised), 'raw'), disguised)
  })

  test('the same disk as the parent of another image', async () => {
    const content = Buffer.concat([disguised, new Uint8Array(1024 - disguised.length)])
    const base = written('base.img', content)
    const child = path.join(path.dirname(base), 'child.qcow2')
    await createLayer(base, child, { parentFormat: 'raw' })
    expectEqual(await readAll(child), content)
  })

  test('a name that only ends so', async () => {
    const content = new Uint8Array(SIZE).fill(7)
    expectEqual(await readAll(written('disk.gz', content)), content)
  })
})

describe('damage and bombs', () => {
  test('gzip that unpacks to more than fits is refused with the command that unpacks it', async () => {
    const bomb = Buffer.concat(Array.from({ length: 70 }, () => zlib.gzipSync(new Uint8Array(1 << 20))))
    const file = written('disk.raw.gz', bomb)
    expect(await refusal(() => openDisk(file))).toMatchObject({
      code: 'UNSUPPORTED',
      advice: `Unpack it first: gunzip --keep ${file}`,
    })
  })

  test.each([
    ['gzip', zlib.gzipSync],
    ['BGZF', bgzf],
  ])('%s with a changed byte is noticed', async (_, pack) => {
    // Nothing in it repeats, so that each bit of what is packed tells in what is unpacked.
    const packed = Buffer.from(pack(randomFor('damage').bytes(50_000)))
    const middle = packed.length >> 1
    packed[middle] = (packed[middle] as number) ^ 1
    const file = written('disk.raw.gz', packed)
    expect(await refusal(() => readAll(file))).toMatchObject({ code: 'CORRUPT' })
  })

  test('a BGZF member that says it holds other than it does is noticed', async () => {
    const packed = Buffer.from(bgzf(packableDisk(randomFor('length'), 50_000)))
    const first = packed.readUInt16LE(16) + 1
    packed.writeUInt32LE(60_000, first - 4)
    const file = written('disk.raw.gz', packed)
    expect(await refusal(() => readAll(file))).toMatchObject({ code: 'CORRUPT' })
  })

  test('a file that is cut off', async () => {
    const packed = zlib.gzipSync(packableDisk(randomFor('cut'), SIZE))
    const file = written('disk.raw.gz', packed.subarray(0, packed.length - 20))
    expect(await refusal(() => openDisk(file))).toMatchObject({ code: 'CORRUPT' })
  })
})

test('a member is only looked for in an archive', async () => {
  const file = written('disk.raw.gz', zlib.gzipSync(new Uint8Array(SIZE)))
  expect(await refusal(() => openDisk(path.join(file, 'member')))).toMatchObject({ code: 'NOT_FOUND' })
})

/** Programs that pack, how they are called, and what must be there to run them. */
const PACKERS = [
  ['xz', 'xz', ['-T1']],
  ['xz', 'xz', ['--block-size=40000']],
  ['bzip2', 'bz2', []],
  ['zstd', 'zst', ['--stdout', '-q']],
  ['pzstd', 'zst', ['--stdout', '-q', '-p2']],
] as const

for (const [tool, ending, args] of PACKERS) {
  describeWithPeers([tool], `packed by ${tool} ${args.join(' ')}`, () => {
    const pack = (content: Uint8Array): Buffer => {
      const file = written('plain.raw', content)
      return execFileSync(tool, tool === 'xz' || tool === 'bzip2' ? ['-c', ...args, file] : [...args, file])
    }

    randomTest('a disk reads at any place, also from several streams', async (random) => {
      const content = packableDisk(random, SIZE)
      const file = written(`disk.raw.${ending}`, Buffer.concat([pack(content), pack(content.subarray(0, 70_001))]))
      const whole = Buffer.concat([content, content.subarray(0, 70_001)])
      await using disk = await openDisk(file)
      expect(disk.size).toBe(whole.length)
      for (let times = 0; times < 30; times++) {
        const offset = random.below(whole.length)
        const bytes = new Uint8Array(1 + random.below(Math.min(whole.length - offset, 70_000)))
        await disk.read(offset, bytes)
        expectEqual(bytes, whole.subarray(offset, offset + bytes.length))
      }
    })

    randomTest('a changed byte is noticed, or changes nothing', async (random) => {
      const content = packableDisk(random, 30_000)
      const packed = pack(content)
      for (let times = 0; times < 20; times++) {
        const damaged = Buffer.from(packed)
        damaged[random.below(damaged.length)] = random.below(256)
        const cut = random.chance(0.3) ? damaged.subarray(0, 100 + random.below(damaged.length - 100)) : damaged
        const file = written(`disk.raw.${ending}`, cut)
        try {
          const found = await readAll(file)
          // What no longer begins like a container is a disk itself.
          if (Buffer.compare(found, cut) !== 0 && tool === 'xz') expectEqual(found, content)
        } catch (error) {
          if (!isVdiskError(error)) throw error
        }
      }
    })

    test('a bomb is refused with the command that unpacks it', async () => {
      const bomb = pack(new Uint8Array(65 << 20))
      const whole = tool === 'xz' && args[0] === '-T1'
      if (!whole && tool !== 'bzip2' && tool !== 'zstd') return
      const file = written(`disk.raw.${ending}`, bomb)
      const { code, advice } = await refusal(() => openDisk(file))
      expect(code).toBe('UNSUPPORTED')
      expect(advice).toContain(`--keep ${file}`)
    })
  })
}

test('zstd with a seek table', async () => {
  const content = packableDisk(randomFor('seekable'), SIZE)
  const zstd = await loadZstd()
  const parts = [0, 100_000, 200_000, 300_000].map((at) => content.subarray(at, Math.min(SIZE, at + 100_000)))
  const frames = parts.map((part) => zstd.compress(part))
  const lengths = frames.map((frame, i) => ({ stored: frame.length, length: parts[i]?.length ?? 0 }))
  const table = zstdSeekTable(lengths)
  expectEqual(await readAll(written('disk.raw.zst', Buffer.concat([...frames, table]))), content)
  table.writeUInt32LE(99_999, 12)
  const file = written('disk.raw.zst', Buffer.concat([...frames, table]))
  expect(await refusal(() => readAll(file))).toMatchObject({ code: 'CORRUPT' })
})
