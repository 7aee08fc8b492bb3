import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import { RepairReport } from '../../lib/contracts/repair.ts'
import { vhdx } from '../../lib/formats/vhdx/driver.ts'
import { HostFile } from '../../lib/io/host-file.ts'
import { promised } from '../../lib/io/io.ts'
import { checkLayer } from '../contract/driver-contract.ts'
import { patternFor } from '../model/history.ts'
import { corpusEntries, corpusMissing, restored } from '../support/corpus.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { contentOf, watchedStore } from '../support/stores.ts'
import { tempFolder } from '../support/temp.ts'
import { readByLibvhdi } from '../support/vhdimount.ts'
import { KIB, MIB, VhdxFile } from '../support/vhdx-file.ts'
import { namedBy, repair, sectorsOf } from '../support/vhdx-repair.ts'

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

describe.skipIf(corpusMissing)(`real VHDX images${corpusMissing ? ` (${corpusMissing})` : ''}`, () => {
  const scratch = tempFolder('vhdx-repair-corpus')
  const images = corpusEntries.filter(({ format }) => format === 'vhdx')

  test.each(images)(
    '$id is written to by a repair only where the check finds something, and reads the same',
    async (entry) => {
      const store = HostFile.open(restored(entry, scratch), { write: true })
      let writes = 0
      const image = {
        name: entry.id,
        store: watchedStore(store, ({ kind }) => {
          if (kind !== 'read') writes++
        }),
        neighbour: () => {
          throw new Error('a repair asks for no other file')
        },
      }
      const check = async (): Promise<string[]> => {
        const layer = await promised(vhdx.open(image, 'read'))
        return (await checkLayer(vhdx, layer)).findings.map(({ code }) => code)
      }
      try {
        const found = await check()
        const digest = async (): Promise<string> => sampleOf(new Chain([await promised(vhdx.open(image, 'read'))]))
        const before = await digest()
        const report = new RepairReport('all')
        await promised((vhdx.repair as NonNullable<typeof vhdx.repair>)(image, report))
        expect(report.count > 0).toBe(found.length > 0)
        expect(writes > 0).toBe(found.length > 0)
        expect(namedBy(report)).toEqual([])
        expect(await check()).toEqual([])
        expect(await digest()).toBe(before)
      } finally {
        store.close()
      }
    },
  )
})

/** A digest of a MiB in every 64 of a disk. */
async function sampleOf(chain: Chain): Promise<string> {
  const hash = createHash('sha256')
  for (let at = 0; at + MIB <= chain.size; at += 64 * MIB) {
    const bytes = new Uint8Array(MIB)
    await promised(chain.read(at, bytes))
    hash.update(bytes)
  }
  return hash.digest('hex')
}
