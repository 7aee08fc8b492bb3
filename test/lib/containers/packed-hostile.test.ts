import zlib from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { bzip2 } from '../../../lib/containers/bzip2.ts'
import { gzip } from '../../../lib/containers/gzip.ts'
import { Pieces } from '../../../lib/containers/pieces.ts'
import { xz } from '../../../lib/containers/xz.ts'
import { zstd } from '../../../lib/containers/zstd.ts'
import type { Container } from '../../../lib/contracts/container.ts'
import { promised, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { bgzf, packableDisk } from '../../support/packed-disks.ts'
import { xzStream, zstdBlock, zstdFrame, zstdHeader, zstdSeekTable, zstdZeros } from '../../support/packed-streams.ts'
import { Random } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'

/** Packed files that cannot be, or are more than can be read at random; byte for byte. */

const MIB = 1 << 20
const DISK = packableDisk(new Random(1), 5000)

/** What a container gives. @param size bytes of the file, which goes on with a hole */
async function unpacked(container: Container, bytes: Uint8Array, size = bytes.length): Promise<Buffer> {
  const store = new MemoryStore('disk', { content: bytes })
  store.grow(size)
  const folder = new MemoryFolder()
  folder.files.set('disk', store)
  const inside = (await promised(container.open(folder.image('disk')))).store
  const target = Buffer.alloc(await inside.size())
  await promised(settle(inside.read(0, target)))
  return target
}

async function expectUnpacks(container: Container, bytes: Uint8Array, wanted: Uint8Array): Promise<void> {
  expect(Buffer.compare(await unpacked(container, bytes), wanted)).toBe(0)
}

const join = (...parts: Uint8Array[]): Buffer => Buffer.concat(parts)

type Refused = [what: string, bytes: () => Uint8Array, code: string, words: string, size?: number]

function refuses(container: Container, cases: Refused[]): void {
  test.each<Refused>(cases)('%s', async (_, bytes, code, words, size) => {
    const error = await refusal(() => unpacked(container, bytes(), size))
    expect(error).toMatchObject({ code, where: { file: 'disk' } })
    expect(error.message).toContain(words)
  })
}

test('a piece of more bytes than can be read at a time', async () => {
  const add = async (): Promise<void> => new Pieces('disk').add({ length: 1, at: 0, storedLength: 73 * MIB })
  expect(await refusal(add)).toMatchObject({ code: 'LIMIT_EXCEEDED' })
})

describe('bzip2', () => {
  refuses(bzip2, [['a file that is too long', () => Buffer.from('BZh9'), 'UNSUPPORTED', 'more than 64 MiB', 65 * MIB]])
})

describe('gzip', () => {
  refuses(gzip, [
    ['a file that is too long', () => zlib.gzipSync(DISK), 'UNSUPPORTED', 'more than 64 MiB', 65 * MIB],
    [
      'a small member that says it holds more than is unpacked at a time',
      () => {
        const packed = Buffer.from(bgzf(DISK))
        packed.writeUInt32LE(65 * MIB, packed.length - 4)
        return packed
      },
      'CORRUPT',
      'gzip data is damaged',
    ],
    [
      'small members with something behind them',
      () => join(bgzf(DISK), Buffer.from('no member')),
      'CORRUPT',
      'gzip data is damaged',
    ],
  ])

  test('small members may hold nothing, and zeros may follow the last', async () => {
    const members = bgzf(DISK.subarray(0, 4000), 1000)
    await expectUnpacks(gzip, members, DISK.subarray(0, 4000))
    await expectUnpacks(gzip, join(members, Buffer.alloc(9)), DISK.subarray(0, 4000))
  })
})

describe('xz', () => {
  refuses(xz, [
    [
      'more streams than any image needs',
      () => join(...Array(4097).fill(xzStream(undefined))),
      'LIMIT_EXCEEDED',
      'index',
    ],
    ['bytes before the first stream', () => join(Buffer.alloc(20, 1), xzStream(DISK)), 'CORRUPT', 'has no beginning'],
    ['an index that is too long', () => xzStream(DISK, { indexLength: 17 * MIB }), 'LIMIT_EXCEEDED', 'index'],
    ['an index longer than the file', () => xzStream(DISK, { indexLength: MIB }), 'CORRUPT', 'index is longer'],
    ['blocks longer than the file', () => xzStream(DISK, { storedLength: MIB }), 'CORRUPT', 'blocks of an xz stream'],
    ['a header that is not of its footer', () => xzStream(DISK, { headerCheck: 1 }), 'CORRUPT', 'footer of an xz'],
    ['a hole behind a stream', () => xzStream(DISK), 'CORRUPT', 'zeros behind a stream', 2 ** 40],
  ])

  test('zeros may stand behind a stream, and streams may hold nothing', async () => {
    const zeros = Buffer.alloc(64)
    await expectUnpacks(xz, xzStream(DISK), DISK)
    await expectUnpacks(xz, join(xzStream(DISK), zeros, xzStream(undefined), xzStream(DISK), zeros), join(DISK, DISK))
    await expectUnpacks(xz, join(xzStream(DISK), Buffer.alloc(200_000)), DISK)
  })
})

describe('zstd', () => {
  const frame = zstdFrame(DISK)
  const stored = frame.length

  refuses(zstd, [
    ['what follows a frame and begins none', () => join(frame, Buffer.alloc(20)), 'CORRUPT', 'no frame begins here'],
    ['what follows a frame and is too short', () => join(frame, Buffer.alloc(5)), 'CORRUPT', 'ends before the frame'],
    [
      'a header that is cut off',
      () => join(frame, zstdHeader(1).subarray(0, 4), Buffer.from([0xc0, 0, 0, 0])),
      'CORRUPT',
      'ends before the frame',
    ],
    ['a block whose header is cut off', () => frame.subarray(0, 10), 'CORRUPT', 'ends before the frame'],
    ['a block that is cut off', () => frame.subarray(0, -1), 'CORRUPT', 'ends before the frame'],
    [
      'a seek table of a frame that is too long',
      () => join(frame, zstdSeekTable([{ stored, length: 65 * MIB }])),
      'UNSUPPORTED',
      'more than 64 MiB',
    ],
    ['a hole that looks like blocks', () => zstdHeader(MIB), 'CORRUPT', 'hold nothing', 2 ** 40],
    [
      'a frame that does not tell its length, behind as much as is unpacked at a time',
      () => join(zstdZeros(64 * MIB - 10), zstdHeader(undefined), zstdBlock('stored', 20, true), Buffer.alloc(20)),
      'UNSUPPORTED',
      'does not tell how much',
    ],
  ])

  test('a file may be shorter than the end of a seek table', async () => {
    await expectUnpacks(zstd, zstdFrame(DISK.subarray(0, 3)), DISK.subarray(0, 3))
  })

  test('bytes that are repeated take one', async () => {
    await expectUnpacks(zstd, zstdZeros(300_000), new Uint8Array(300_000))
  })

  test.each([
    ['is longer than the file', [{ stored: stored * 2, length: DISK.length }]],
    ['leaves some of it out', [{ stored: stored - 1, length: DISK.length - 1 }]],
  ])('a seek table that %s is not believed', async (_, frames) => {
    await expectUnpacks(zstd, join(frame, zstdSeekTable(frames)), DISK)
  })

  test('a seek table of more frames than any image has is not read', async () => {
    const store = new MemoryStore('disk', { content: frame })
    const footer = zstdSeekTable([]).subarray(8)
    footer.writeUInt32LE(2 * MIB)
    // What is claimed to be the table is the content of one frame that is left out.
    const left = Buffer.alloc(8)
    left.writeUInt32LE(0x184d2a50)
    left.writeUInt32LE(17 * MIB + footer.length, 4)
    store.write(stored, left)
    store.write(stored + 8 + 17 * MIB, footer)
    const folder = new MemoryFolder()
    folder.files.set('disk', store)
    const inside = (await promised(zstd.open(folder.image('disk')))).store
    expect(await inside.size()).toBe(DISK.length)
  })
})
