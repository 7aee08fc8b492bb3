import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'

const MIB = 1 << 20

/** The folder of an image with this content. */
function folderWith(content: Uint8Array | string, others: Readonly<Record<string, number>> = {}): MemoryFolder {
  const folder = new MemoryFolder()
  void folder.image('a').store.write(0, typeof content === 'string' ? Buffer.from(content, 'latin1') : content)
  for (const [name, size] of Object.entries(others)) void folder.image(name).store.truncate(size)
  return folder
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => 'fine',
    (error: unknown) => (isVdiskError(error) ? error.code : `no VdiskError: ${String(error)}`),
  )
}

async function opening(
  content: Uint8Array | string,
  access: 'inspect' | 'read' | 'write' = 'read',
  others: Readonly<Record<string, number>> = {},
): Promise<string> {
  return await codeOf(promised(vmdk.open(folderWith(content, others).image('a'), access)))
}

async function reading(file: VmdkFile, offset: number): Promise<string> {
  const chain = new Chain([await promised(vmdk.open(folderWith(file.bytes).image('a'), 'read'))])
  return await codeOf(promised(chain.read(offset, new Uint8Array(512))))
}

async function findingsOf(file: VmdkFile): Promise<string[]> {
  const layer = await promised(vmdk.open(folderWith(file.bytes).image('a'), 'read'))
  const report = new CheckReport()
  await promised(vmdk.check(layer, report))
  return report.findings.map(({ code }) => code)
}

const HEAD = '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'

describe('classes 1 to 4: numbers of a header that cannot be', () => {
  test.each([
    ['capacity', { capacity: 2 ** 50 }, 'LIMIT_EXCEEDED'],
    ['capacity that needs too large a directory', { capacity: 2 ** 44 }, 'LIMIT_EXCEEDED'],
    ['capacity of more than the tables', { capacity: 2 ** 32 }, 'CORRUPT'],
    ['grains of no sectors', { grainSize: 0 }, 'CORRUPT'],
    ['grains of 3 sectors', { grainSize: 3 }, 'CORRUPT'],
    ['grains of 1 sector', { grainSize: 1 }, 'CORRUPT'],
    ['grains of 2 TiB', { grainSize: 2 ** 32 }, 'CORRUPT'],
    ['tables without entries', { entriesPerTable: 0 }, 'CORRUPT'],
    ['tables of 513 entries', { entriesPerTable: 513 }, 'CORRUPT'],
    ['tables of 2^31 entries', { entriesPerTable: 2 ** 31 }, 'CORRUPT'],
    ['version 0', { version: 0 }, 'UNSUPPORTED'],
    ['version 4', { version: 4 }, 'UNSUPPORTED'],
    ['an unknown way to pack', { compression: 2, flags: 0x10003 }, 'UNSUPPORTED'],
    ['a way to pack, and nothing packed', { compression: 1 }, 'CORRUPT'],
    ['line ends that were changed', { lineEnds: Buffer.from('\n \n\n') }, 'CORRUPT'],
    ['both directories past the end', { directoryOffset: 2n ** 40n, redundantDirectoryOffset: 2 ** 40 }, 'CORRUPT'],
    ['a descriptor past the end', { descriptorOffset: 2 ** 40 }, 'CORRUPT'],
  ])('%s', async (_, fields, code) => {
    const file = (await VmdkFile.make(MIB, [0])).patch(fields)
    expect(await opening(file.bytes)).toBe(code)
    expect(await opening(file.bytes, 'write')).toBe(code)
  })

  test('all of them are legal: versions 1 to 3, and a directory whose copy is missing', async () => {
    for (const version of [1, 2, 3]) {
      expect(await opening((await VmdkFile.make(MIB, [0])).patch({ version }).bytes, 'write')).toBe('fine')
    }
    const alone = (await VmdkFile.make(MIB, [0])).patch({ flags: 1 })
    expect(await opening(alone.bytes, 'write')).toBe('fine')
    expect(await findingsOf(alone)).toEqual([])
  })
})

describe('classes 5 to 7: entries that lead astray', () => {
  test.each([
    ['past the end', 2 ** 31],
    ['into the header', 0x7fffffff & 1],
    ['into the descriptor', 5],
    ['into a table', 30],
  ])('a grain that points %s is not read, not written beside, and found', async (_, sector) => {
    const file = (await VmdkFile.make(MIB, [0, 1])).setEntry(1, sector)
    expect(await reading(file, 4096)).toBe('CORRUPT')
    expect(await reading(file, 0)).toBe('fine')
    expect(await opening(file.bytes, 'write')).toBe('CORRUPT')
    expect(await findingsOf(file)).toContain('GRAIN_MISPLACED')
  })

  test('two grains in one place are found, and nobody writes to such a file', async () => {
    const file = await VmdkFile.make(MIB, [0, 1])
    file.setEntry(1, file.entry(0))
    expect(await findingsOf(file)).toContain('GRAIN_SHARED')
    expect(await opening(file.bytes, 'write')).toBe('CORRUPT')
    expect(await reading(file, 4096)).toBe('fine')
  })

  test('a directory that names one table twice is found, and nobody writes to such a file', async () => {
    const file = await VmdkFile.make(5 * MIB, [0])
    file.bytes.copy(file.bytes, file.directoryEntryAt(1), file.directoryEntryAt(0), file.directoryEntryAt(0) + 4)
    expect(await findingsOf(file)).toContain('TABLES_OVERLAP')
    expect(await opening(file.bytes, 'write')).toBe('CORRUPT')
  })

  test('a directory that names itself as a table is found, and nobody writes to such a file', async () => {
    const file = await VmdkFile.make(MIB, [0])
    file.bytes.writeUInt32LE(Number(file.header.directoryOffset), file.directoryEntryAt(0))
    expect(await findingsOf(file)).toContain('TABLES_OVERLAP')
    expect(await opening(file.bytes, 'write')).toBe('CORRUPT')
  })
})

describe('class 13: descriptors', () => {
  test.each([
    ['a line that means nothing', `${HEAD}RW 1 FLAT "b" 0\nwhatever this is\n`, 'CORRUPT'],
    ['a key twice', `${HEAD}CID=87654321\nRW 1 FLAT "b" 0\n`, 'CORRUPT'],
    ['a key twice, in another case', `${HEAD}cid=87654321\nRW 1 FLAT "b" 0\n`, 'CORRUPT'],
    ['no parts', HEAD, 'CORRUPT'],
    ['a part of sectors that no number can hold', `${HEAD}RW 999999999999999999 FLAT "b" 0\n`, 'LIMIT_EXCEEDED'],
    ['a negative size', `${HEAD}RW -1 FLAT "b" 0\n`, 'CORRUPT'],
    ['a part behind the end of its file', `${HEAD}RW 1 FLAT "b" 9\n`, 'CORRUPT'],
    ['a part larger than its file', `${HEAD}RW 978000000000 FLAT "b" 0\n`, 'CORRUPT'],
    ['too many parts', HEAD + 'RW 1 ZERO\n'.repeat(5000), 'LIMIT_EXCEEDED'],
    ['more than a MiB', `${HEAD}RW 1 FLAT "b" 0\n#${'x'.repeat(MIB)}`, 'LIMIT_EXCEEDED'],
    ['a version of the future', `${HEAD.replace('version=1', 'version=9')}RW 1 FLAT "b" 0\n`, 'UNSUPPORTED'],
    ['a part that is not there', `${HEAD}RW 1 FLAT "missing" 0\n`, 'NOT_FOUND'],
    ['a type of part that nobody knows', `${HEAD}RW 1 WHATEVER "b"\n`, 'UNSUPPORTED'],
    ['a raw device', `${HEAD}RW 1 VMFSRDM "b"\n`, 'UNSUPPORTED'],
    ['a key that a careless reader trips over', `${HEAD}__proto__="x"\nRW 1 FLAT "b" 0\n`, 'fine'],
  ])('with %s', async (_, text, code) => {
    expect(await opening(text, 'read', { b: 512 })).toBe(code)
  })

  test.each(['fullDevice', 'partitionedDevice', 'vmfsRDM', 'vmfsRaw', 'vmfsRDMP', 'vmfsPassthroughRawDeviceMap'])(
    'of a %s are refused by name',
    async (type) => {
      const folder = folderWith(`${HEAD.replace('monolithicFlat', type)}RW 1 FLAT "b" 0\n`, { b: 512 })
      const error = await promised(vmdk.open(folder.image('a'), 'inspect')).catch((reason: unknown) => reason)
      expect(isVdiskError(error, 'UNSUPPORTED') && error.message).toContain(type)
    },
  )

  test('whatever they name, an inspection opens no other file', async () => {
    expect(await opening(`${HEAD}RW 1 FLAT "missing" 0\n`, 'inspect')).toBe('fine')
  })

  test('of part of a disk are no disk', async () => {
    expect(await opening((await VmdkFile.make(MIB, [])).patch({ descriptorOffset: 0 }).bytes)).toBe('UNSUPPORTED')
  })
})

describe('class 20: files that end too early', () => {
  test('are refused or read in part, wherever they end', async () => {
    const { bytes } = await VmdkFile.make(MIB, [0, 1])
    for (let length = 0; length < bytes.length; length += length < 4096 ? 61 : 512) {
      const folder = folderWith(bytes.subarray(0, length))
      const code = await codeOf(
        promised(vmdk.open(folder.image('a'), 'read')).then(async (layer) => {
          await promised(new Chain([layer]).read(0, new Uint8Array(8192)))
        }),
      )
      expect(['CORRUPT', 'LIMIT_EXCEEDED', 'UNSUPPORTED'], `${length} bytes`).toContain(code)
    }
  })
})

describe('class 22: a child without its parent', () => {
  test('has a parent, if only its id or only its name says so', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const text = file.descriptor
    const byId = folderWith(file.describe(text.replace('parentCID=ffffffff', 'parentCID=0a0b0c0d')).bytes)
    expect((await promised(vmdk.open(byId.image('a'), 'read'))).parent?.expects[0]?.value).toBe('0a0b0c0d')
    const byName = folderWith(file.describe(`${text}parentFileNameHint="base.vmdk"\n`).bytes)
    const layer = await promised(vmdk.open(byName.image('a'), 'read'))
    expect(layer.parent?.references).toEqual(['base.vmdk'])
    expect((await promised(layer.map(4096, 4096))).kind).toBe('parent')
  })
})
