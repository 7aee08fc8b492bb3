import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import { promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { contentOf } from '../support/stores.ts'
import { tempFolder } from '../support/temp.ts'
import { readByLibvhdi } from '../support/vhdimount.ts'
import { KIB, MIB, VhdxFile } from '../support/vhdx-file.ts'
import { repair, sectorsOf } from '../support/vhdx-repair.ts'

const SIZE = 8 * MIB
const folder = tempFolder('vhdx-repair')
const PHYSICAL = 'cda348c7-445d-4471-9cc9-e9885251c556'

async function written(): Promise<VhdxFile> {
  const file = await VhdxFile.make(SIZE)
  const chain = new Chain([await file.write()])
  for (const block of [0, 1, 2, 5]) await promised(chain.write(block * MIB + 512, patternFor(0, MIB - 9000, block + 1)))
  await promised(chain.close())
  return file
}

const DAMAGE: [string, (file: VhdxFile) => unknown][] = [
  ['a signature', (file) => file.put(0, Buffer.from('x'))],
  ['a header', (file) => file.put(128 * KIB + 50, Buffer.from('x'))],
  ['both headers', (file) => [64, 128].map((k) => file.put(k * KIB + 4, Buffer.from('xxxx')))],
  ['both headers, wiped out', (file) => [64, 128].map((k) => file.put(k * KIB, new Uint8Array(4096)))],
  [
    'both copies of the region table',
    (file) => [192, 256].map((k, i) => file.put(k * KIB + 20 + i * 9000, Buffer.from('x'))),
  ],
  ['the physical sector size', (file) => file.put(file.item(PHYSICAL).at, Buffer.from([7]))],
  ['the count of metadata items', (file) => file.put(file.metadata.at + 10, Buffer.from([2]))],
  ['a log that cannot be replayed', (file) => file.setLog('11111111-2222-4333-8444-555555555555', [])],
  ['blocks past the end', (file) => [0, 2].map((block) => file.setEntry(block, BigInt((90 + block) * MIB) | 6n))],
  ['blocks that share a place', (file) => [3, 4].map((block) => file.setEntry(block, file.entry(0)))],
  ['reserved bits', (file) => file.setEntry(1, file.entry(1) | 0x100n)],
  ['a state that does not exist', (file) => file.setEntry(1, (file.entry(1) & ~7n) | 4n)],
  ['a cut off end', (file) => file.store.truncate(file.store.size() - 30_000)],
  ['room that belongs to nothing', (file) => file.put(file.store.size(), new Uint8Array(2 * MIB).fill(9))],
]

/** Our reading of a file. */
async function read(file: VhdxFile): Promise<Buffer> {
  return Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[])
}

describeWithPeers(['qemu-img'], 'QEMU and a mended VHDX', () => {
  test.each(DAMAGE)('find the same content, and no error, after the repair of %s', async (what, spoil) => {
    const file = await written()
    spoil(file)
    await repair(file)
    const name = path.join(folder, `${what.replaceAll(/\W+/g, '-')}.vhdx`)
    fs.writeFileSync(name, contentOf(file.store))
    expect(runPeer('qemu-img', ['check', '-f', 'vhdx', name]).stdout).toContain('No errors')
    runPeer('qemu-img', ['convert', '-f', 'vhdx', '-O', 'raw', name, `${name}.raw`])
    expect(fs.readFileSync(`${name}.raw`).equals(await read(file))).toBe(true)
  })
})

describeWithPeers(['vhdimount', 'umount'], 'libvhdi and a mended VHDX', () => {
  test.each(DAMAGE)('read the same after the repair of %s', async (what, spoil) => {
    const file = await written()
    spoil(file)
    await repair(file)
    const name = path.join(folder, `${what.replaceAll(/\W+/g, '-')}.libvhdi.vhdx`)
    fs.writeFileSync(name, contentOf(file.store))
    expect(readByLibvhdi(name, 1)[0]?.equals(await read(file))).toBe(true)
  })
})
