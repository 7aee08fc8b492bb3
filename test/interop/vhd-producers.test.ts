import fs from 'node:fs'
import { describe, expect, test } from 'vitest'
import { checkImage, finish, mergeImage, openDisk } from '../../lib/index.ts'
import { describeWithPeers } from '../support/peers.ts'
import { scratchFolder } from '../support/temp.ts'
import { DISK_SIZE, type MadeChain, makeChain, PRODUCERS, uniqueId } from '../support/vhd-producers.ts'
import { readByLibvhdi } from '../support/vhdimount.ts'

const EPOCH = 946_684_800

async function contentOf(file: string): Promise<Buffer> {
  await using disk = await openDisk(file)
  expect(disk.notes).toEqual([])
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function findingsOf(file: string): Promise<string[]> {
  const { findings } = await finish(checkImage(file))
  return findings.map(({ code }) => code)
}

/** The last sector of a file: what says whose disk it is. */
function footerOf(file: string): Buffer {
  return fs.readFileSync(file).subarray(-512)
}

async function expectContent(file: string, wanted: Buffer | undefined): Promise<void> {
  expect(Buffer.compare(await contentOf(file), wanted as Buffer), file).toBe(0)
}

/** What all programs look at: whose file it is, and whether it is to be hidden. */
function identityOf(file: string): Record<string, unknown> {
  const footer = footerOf(file)
  return {
    creator: footer.toString('latin1', 28, 40),
    uniqueId: footer.subarray(68, 84).toString('hex'),
    size: Number(footer.readBigUInt64BE(48)),
    hidden: footer[85],
  }
}

/** The parent that a child names: its id, the time of its file, and that file by each of its names. */
function expectToName(child: string, depth: number, parent: string): void {
  const at = Number(footerOf(child).readBigUInt64BE(16))
  const header = fs.readFileSync(child).subarray(at, at + 1024)
  expect(header.subarray(40, 56).equals(uniqueId(depth))).toBe(true)
  expect(header.readUInt32BE(56)).toBe(Math.floor(fs.statSync(parent).mtimeMs / 1000) - EPOCH)
}

describe.each(PRODUCERS)('a chain as $name makes it', (producer) => {
  const sizeIsBelieved = producer.creator !== 'vbox'
  /** Of a creator that QEMU does not know, the check says that others may see another size. */
  const sound = sizeIsBelieved ? [] : ['GEOMETRY_DISAGREES']

  test('is read layer by layer, and found sound', async () => {
    const { files, contents } = makeChain(producer, scratchFolder())
    for (const [depth, file] of files.entries()) {
      await expectContent(file, contents[depth])
      expect(await findingsOf(file)).toEqual(sound)
      expect((await contentOf(file)).length).toBe(DISK_SIZE)
    }
  })

  test('is merged, the middle first: the child names the base, whose identity, size and secrets stay', async () => {
    const chain = makeChain(producer, scratchFolder())
    const [base, middle, top] = chain.files as [string, string, string]
    const before = identityOf(base)
    await finish(mergeImage(middle, { delete: true }))
    expect(identityOf(base)).toEqual(before)
    expectToName(top, 0, base)
    await expectContent(base, chain.contents[1])
    await expectContent(top, chain.contents[2])
    for (const file of [base, top]) expect(await findingsOf(file)).toEqual(sound)
    await finish(mergeImage(top, { delete: true }))
    expect(identityOf(base)).toEqual(before)
    await expectContent(base, chain.contents[2])
    expect(await findingsOf(base)).toEqual(sound)
  })

  test('is written at its top, and merged whole', async () => {
    const chain = makeChain(producer, scratchFolder())
    const [base, , top] = chain.files as [string, string, string]
    const wanted = Buffer.from(chain.contents[2] as Buffer)
    wanted.fill(0xee, (4 << 20) + 100, (4 << 20) + 5000)
    wanted.fill(0xdd, DISK_SIZE - 700)
    {
      await using disk = await openDisk(top, { writable: true })
      await disk.write((4 << 20) + 100, wanted.subarray((4 << 20) + 100, (4 << 20) + 5000))
      await disk.write(DISK_SIZE - 700, wanted.subarray(DISK_SIZE - 700))
    }
    expect(await findingsOf(top)).toEqual(sound)
    await finish(mergeImage(top, { into: base, delete: true }))
    await expectContent(base, wanted)
    expect(await findingsOf(base)).toEqual(sound)
  })
})

describeWithPeers(['vhdimount', 'umount'], 'libvhdi', () => {
  const expectRead = ({ files }: MadeChain, wanted: readonly (Buffer | undefined)[]): void => {
    const read = readByLibvhdi(files.at(-1) as string, wanted.length)
    for (const [i, content] of wanted.entries()) expect(Buffer.compare(read[i] as Buffer, content as Buffer)).toBe(0)
  }

  // It takes all sectors of a byte of the bitmap for present that come after one that is: so eight go together here.
  test.each(PRODUCERS)(
    'reads such a chain of $name as we do, before and after its middle is merged',
    async (producer) => {
      const chain = makeChain(producer, scratchFolder(), 8)
      const [base, middle, top] = chain.files as [string, string, string]
      expectRead(chain, chain.contents)
      await finish(mergeImage(middle, { delete: true }))
      expectRead({ ...chain, files: [base, top] }, chain.contents.slice(1))
    },
  )
})
