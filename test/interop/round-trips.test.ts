import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { drivers } from '../../lib/formats/registry.ts'
import { checkImage, convertDisk, createDisk, finish, inspectImage, openDisk } from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { expectSameBytes } from '../support/qemu.ts'
import { QEMU_FORMATS } from '../support/qemu-formats.ts'
import { scratchFolder } from '../support/temp.ts'

// Any format to any other, and what other programs read of it. A format that comes into the registry is tried by itself.

const FORMATS = drivers.filter(({ supports }) => supports.create && supports.write)
const PAIRS = FORMATS.flatMap((from) => FORMATS.map((to) => [from.name, to.name] as const))

/** Bytes: less than any granule, no multiple of one, and some of all. */
const SIZES = [512, 1536, (1 << 20) + 512, (5 << 20) - 512]

function unitOf(format: string): number {
  return drivers.find(({ name }) => name === format)?.supports.sizeUnit as number
}

/** Data with holes in it, and zeros that are no holes; the last byte is data. */
function contentOf(size: number): Buffer {
  const bytes = Buffer.alloc(size)
  const step = Math.max(64, Math.floor(size / 7))
  for (let offset = 0, i = 1; offset < size; offset += 2 * step, i++) {
    bytes.set(patternFor(offset, Math.min(step, size - offset), i), offset)
  }
  bytes[size - 1] = 0xa5
  return bytes
}

async function make(file: string, format: string, content: Buffer): Promise<void> {
  await using disk = await createDisk(file, { format, size: content.length })
  await disk.write(0, content)
}

async function convert(from: string, fromFormat: string, to: string, format: string): Promise<void> {
  await using disk = await openDisk(from, { format: fromFormat })
  await finish(convertDisk(disk.chain, to, { format, durable: false }))
}

async function read(file: string, format: string): Promise<Buffer> {
  await using disk = await openDisk(file, { format })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

describe.each(PAIRS)('%s to %s', (from, to) => {
  test.each(SIZES)('a disk of %d bytes keeps every byte, there and back', async (size) => {
    const folder = scratchFolder()
    const [one, two, three] = ['one', 'two', 'three'].map((name) => path.join(folder, name)) as [string, string, string]
    const content = contentOf(size)
    await make(one, from, content)
    await convert(one, from, two, to)
    await convert(two, to, three, from)
    expectSameBytes(await read(two, to), content, to)
    expectSameBytes(await read(three, from), content, `${from} again`)
    const { findings } = await finish(checkImage(two, { format: to }))
    expect(findings).toEqual([])
    const info = await inspectImage(two, { format: to })
    expect(info).toMatchObject({ format: to, size, parent: undefined, linkRecord: undefined })
    expect(fs.readdirSync(folder).filter((name) => /partial|vdisk-/.test(name))).toEqual([])
  })
})

describe.each(FORMATS.filter(({ supports }) => supports.sizeUnit > 1).map(({ name }) => name))('%s', (to) => {
  test('refuses a disk that is no whole number of its units, or keeps every byte of it', async () => {
    const folder = scratchFolder()
    const [one, two] = [path.join(folder, 'one'), path.join(folder, 'two')]
    const content = contentOf(3 * unitOf(to) + 1)
    fs.writeFileSync(one, content)
    const outcome = await convert(one, 'raw', two, to).catch((error: unknown) => error)
    if (outcome !== undefined) {
      expect(outcome).toMatchObject({ name: 'VdiskError', code: 'REFUSED' })
      expect(fs.readdirSync(folder)).toEqual(['one'])
      return
    }
    const found = await read(two, to)
    expectSameBytes(found.subarray(0, content.length), content, to)
    expect(found.subarray(content.length).every((byte) => byte === 0)).toBe(true)
  })
})

describeWithPeers(['qemu-img'], 'QEMU', () => {
  const known = FORMATS.map(({ name }) => name).filter((name) => name in QEMU_FORMATS)

  test.each(known.flatMap((format) => SIZES.map((size) => [format, size] as const)))(
    'reads a %s of %d bytes as we do',
    async (format, size) => {
      const folder = scratchFolder()
      const [one, two, out] = ['one', 'two', 'out'].map((name) => path.join(folder, name)) as [string, string, string]
      const content = contentOf(size)
      fs.writeFileSync(one, content)
      await convert(one, 'raw', two, format)
      runPeer('qemu-img', ['convert', '-f', QEMU_FORMATS[format] as string, '-O', 'raw', two, out])
      const found = fs.readFileSync(out)
      expectSameBytes(found.subarray(0, size), content, format)
      expect(found.subarray(size).every((byte) => byte === 0)).toBe(true)
    },
  )

  test.each(known.filter((format) => format !== 'raw'))('makes a %s that we read as it does', async (format) => {
    const folder = scratchFolder()
    const [one, two] = [path.join(folder, 'one'), path.join(folder, 'two')]
    const content = contentOf((3 << 20) + 512)
    fs.writeFileSync(one, content)
    runPeer('qemu-img', ['convert', '-f', 'raw', '-O', QEMU_FORMATS[format] as string, one, two])
    const found = await read(two, format)
    expectSameBytes(found.subarray(0, content.length), content, format)
    expect(found.subarray(content.length).every((byte) => byte === 0)).toBe(true)
  })
})
