import fs from 'node:fs'
import { expect, test } from 'vitest'
import { checkImage, createInternalSnapshot, finish, inspectImage, isVdiskError, openDisk } from '../../lib/index.ts'
import { OurImage } from '../support/our-history.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { expectAgreement, expectSameBytes, ourCheckStatus, ourReading, Qemu } from '../support/qemu.ts'
import { printSeed, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const VARIANTS: readonly { options: Record<string, string>; size: number; cluster: number; snapshots?: boolean }[] = [
  { options: {}, size: 3 << 20, cluster: 65536 },
  { options: { cluster_size: '512' }, size: 200 << 10, cluster: 512 },
  { options: { cluster_size: '512', refcount_bits: '64' }, size: 200 << 10, cluster: 512 },
  { options: { cluster_size: '1K', refcount_bits: '1' }, size: 400 << 10, cluster: 1024, snapshots: false },
  { options: { extended_l2: 'on', cluster_size: '16K' }, size: 1 << 20, cluster: 16384 },
  { options: { data_file: 'data' }, size: 1 << 20, cluster: 65536, snapshots: false },
]

/** Runs commands of qemu-io, and kills it with SIGKILL before it can close the image. */
function killedIo(qemu: Qemu, commands: readonly string[], cache: string): void {
  const given = [...commands, 'sigraise 9'].flatMap((command) => ['-c', command])
  runPeer('qemu-io', ['-f', 'qcow2', '-t', cache, ...given, 'a'], { in: qemu.folder, accept: [-1] })
}

async function isDirty(qemu: Qemu): Promise<unknown> {
  return (await inspectImage(qemu.path('a'))).details.dirty
}

describeWithPeers(['qemu-img', 'qemu-io'], 'an image whose writer was killed under lazy refcounts', () => {
  for (const { options, size, cluster, snapshots } of VARIANTS) {
    for (const cache of ['writethrough', 'writeback']) {
      const title = Object.entries(options).map(([name, value]) => `${name}=${value}`)
      randomTest(`is read, and repaired when it is written: ${cache} ${title.join(' ')}`, async (random) => {
        const qemu = new Qemu(scratchFolder())
        qemu.create('a', size, { lazy_refcounts: 'on', ...options })
        if (options.data_file === undefined) {
          qemu.io('a', qemu.compressedHistory(random, { size, cluster, steps: 4 }))
        }
        if (snapshots !== false) qemu.img(['snapshot', '-c', 'x', 'a'])
        for (let round = 0; round < 3; round++) {
          killedIo(qemu, qemu.history(random, { size, cluster, steps: 12 }), cache)
          // Guest data in another file is not counted.
          if (options.data_file === undefined) expect(await isDirty(qemu)).toBe(true)
          const content = qemu.reads('a')
          expectSameBytes(await ourReading(qemu.path('a')), content, 'our reading')
          expect(await ourCheckStatus(qemu.path('a'))).toBe(qemu.check('a').status)
          const image = new OurImage(qemu.path('a'), content)
          await image.play(random, { cluster, steps: random.pick([0, 10]) })
          expect(await isDirty(qemu)).toBe(false)
          expectSameBytes(await expectAgreement(qemu, 'a'), image.model.bytes, 'what we wrote')
        }
      })
    }
  }
})

/** Sets a bit of the incompatible features: 0 dirty, 1 corrupt. */
function mark(file: string, bit: number): void {
  patch(file, 79, Uint8Array.of(1 << bit))
}

function patch(file: string, at: number, bytes: Uint8Array): void {
  const handle = fs.openSync(file, 'r+')
  fs.writeSync(handle, bytes, 0, bytes.length, at)
  fs.closeSync(handle)
}

function u64(file: string, at: number): number {
  return Number(fs.readFileSync(file).readBigUInt64BE(at))
}

describeWithPeers(['qemu-img', 'qemu-io'], 'repairing the counts of an image that was not closed', () => {
  // Each refcount block counts 64 clusters of 512 bytes here, so blocks have to be made.
  const OPTIONS = { lazy_refcounts: 'on', cluster_size: '512', refcount_bits: '64' }

  /** The refcount table loses all blocks but the first, and the image says that it was not closed. */
  function loseCounts(file: string): void {
    const table = u64(file, 48)
    patch(file, table + 8, new Uint8Array(512 - 8))
    mark(file, 0)
  }

  test('makes no block on a cluster that is mapped past the end of the file', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 200 << 10, OPTIONS)
    qemu.io('a', ['write -P 1 0 100k', 'write -P 2 150k 20k'])
    const content = qemu.reads('a')
    loseCounts(qemu.path('a'))
    // The file ends before the last clusters that were written: their entries are durable, their bytes are not.
    const length = fs.statSync(qemu.path('a')).size
    fs.truncateSync(qemu.path('a'), length - 10 * 512)
    await (await openDisk(qemu.path('a'), { writable: true })).close()
    const found = await ourReading(qemu.path('a'))
    for (let at = 0; at < found.length; at += 512) {
      const sector = found.subarray(at, at + 512)
      const lost = sector.every((byte) => byte === 0)
      if (!lost) expectSameBytes(sector, content.subarray(at, at + 512), `sector at ${at}`)
    }
    await expectAgreement(qemu, 'a')
    // Nor does what is written next land there.
    await using disk = await openDisk(qemu.path('a'), { writable: true })
    await disk.write(100 << 10, new Uint8Array(50 << 10).fill(3))
    await disk.close()
    const after = await expectAgreement(qemu, 'a')
    expectSameBytes(after.subarray(0, 100 << 10), found.subarray(0, 100 << 10), 'before the write')
    expectSameBytes(after.subarray(150 << 10), found.subarray(150 << 10), 'behind the write')
  })

  test('makes no block on an L2 table that lies past the end of the file', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 200 << 10, OPTIONS)
    qemu.io('a', ['write -P 1 0 100k'])
    const length = fs.statSync(qemu.path('a')).size
    const content = qemu.reads('a')
    loseCounts(qemu.path('a'))
    const l1 = u64(qemu.path('a'), 40)
    const entry = Buffer.alloc(8)
    entry.writeBigUInt64BE((1n << 63n) | BigInt(Math.ceil(length / 512) * 512))
    patch(qemu.path('a'), l1 + 6 * 8, entry)
    await (await openDisk(qemu.path('a'), { writable: true })).close()
    expectSameBytes(await expectAgreement(qemu, 'a'), content, 'the disk')
  })

  test('gives up where a table refers to places that no writer can have taken', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 1 << 20, { lazy_refcounts: 'on' })
    qemu.io('a', ['write -P 1 0 64k'])
    const l2 = u64(qemu.path('a'), u64(qemu.path('a'), 40)) % 2 ** 56
    patch(qemu.path('a'), l2 + 8, Uint8Array.of(0x80, 0x40, 0, 0, 0, 0, 0, 0))
    mark(qemu.path('a'), 0)
    const before = fs.readFileSync(qemu.path('a'))
    const error = await openDisk(qemu.path('a'), { writable: true }).catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'CORRUPT')).toBe(true)
    expect(fs.readFileSync(qemu.path('a')).equals(before)).toBe(true)
  })

  test('makes the flags fit the counts, so that no write in place reaches a snapshot', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 64 << 10, { lazy_refcounts: 'on', cluster_size: '4K' })
    qemu.io('a', ['write -P 1 0 64k'])
    await createInternalSnapshot(qemu.path('a'), 'x')
    // The flag of the first cluster says that it may be written in place, although the snapshot has it too.
    const l2 = u64(qemu.path('a'), u64(qemu.path('a'), 40)) % 2 ** 56
    const high = fs.readFileSync(qemu.path('a'))[l2] as number
    patch(qemu.path('a'), l2, Uint8Array.of(high | 0x80))
    mark(qemu.path('a'), 0)
    await using disk = await openDisk(qemu.path('a'), { writable: true })
    await disk.write(0, new Uint8Array(4096).fill(2))
    await disk.close()
    expect(qemu.readsSnapshot('a', 'x')[0]).toBe(1)
    await expectAgreement(qemu, 'a')
  })
})

describeWithPeers(['qemu-img', 'qemu-io'], 'an image that is marked as corrupt', () => {
  test('is read and checked, but not written, as with QEMU', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 1 << 20)
    qemu.io('a', ['write -P 1 0 100k'])
    const content = qemu.reads('a')
    mark(qemu.path('a'), 1)
    const error = await openDisk(qemu.path('a'), { writable: true }).catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'CORRUPT')).toBe(true)
    expectSameBytes(await ourReading(qemu.path('a')), content, 'our reading')
    const { findings } = await finish(checkImage(qemu.path('a')))
    expect(findings.map(({ code }) => code)).toEqual(['MARKED_CORRUPT'])
    expect(() => qemu.io('a', ['write 0 512'])).toThrow(/corrupt/)
  })
})
