import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'

const GRAIN = 4096

async function opened(file: VmdkFile): Promise<{ chain: Chain; codes: string[] }> {
  const folder = new MemoryFolder()
  void folder.image('disk.vmdk').store.write(0, file.bytes)
  const layer = await promised(vmdk.open(folder.image('disk.vmdk'), 'read'))
  const report = new CheckReport()
  await promised(vmdk.check(layer, report))
  return { chain: new Chain([layer]), codes: report.findings.map(({ code }) => code) }
}

describe('legal, if odd, is', () => {
  test('an embedded descriptor that names another file: the disk is in its own', async () => {
    const file = await VmdkFile.make(5 << 20, [0, 1])
    file.describe(file.descriptor.replace(/^(RW \d+ SPARSE) "[^"]*"/m, '$1 "renamed since.vmdk"'))
    const { chain, codes } = await opened(file)
    const bytes = new Uint8Array(2 * GRAIN)
    await promised(chain.read(0, bytes))
    expect({ first: bytes[0], second: bytes[GRAIN], codes }).toEqual({ first: 1, second: 2, codes: [] })
  })

  test('a last grain of which the disk has a part, where the file ends with the disk', async () => {
    const size = 3 * GRAIN + 1024
    const file = await VmdkFile.make(size, [0, 3])
    const end = file.entry(3) * 512 + 1024
    const cut = Object.assign(Object.create(file), { bytes: file.bytes.subarray(0, end) }) as VmdkFile
    const { chain, codes } = await opened(cut)
    const bytes = new Uint8Array(1024)
    await promised(chain.read(3 * GRAIN, bytes))
    expect({ size: chain.size, all: bytes.every((byte) => byte === 4), codes }).toEqual({ size, all: true, codes: [] })
  })

  // VMware's exporters give a stream a short id of its own; of a disk that is written the long one follows the short one.
  test.each([
    ['a stream', 'streamOptimized', []],
    ['a disk that is written', 'monolithicSparse', ['CONTENT_IDS_DIFFER']],
  ])('a long content id that does not end with the short one, in %s: %s', async (_, type, wanted) => {
    const file = await VmdkFile.make(5 << 20, [0])
    const text = file.descriptor.replace(/createType="\w+"/, `createType="${type}"`)
    file.describe(`${text}ddb.longContentID = "f56c691c480fc22c0f8b7effd5dbb1b1"\n`)
    expect((await opened(file)).codes).toEqual(wanted)
  })
})
