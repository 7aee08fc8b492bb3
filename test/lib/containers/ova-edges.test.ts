import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { ova } from '../../../lib/containers/ova/container.ts'
import { readOvf } from '../../../lib/containers/ova/ovf.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { checkImage, finish, openDisk } from '../../../lib/index.ts'
import { promised, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { type Entry, ovfOf, paxOf, tarOf } from '../../support/appliances.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'

/** Appliances as some writer may have made them, or nobody: what is rare, and what is wrong. */

const DISK: Entry = { name: 'disk.img', content: Buffer.alloc(1024, 7) }
const OVF: Entry = { name: 'a.ovf', content: ovfOf([{ name: 'disk.img', size: 1024, capacity: 1024 }]) }

function written(entries: readonly Entry[]): string {
  const file = path.join(scratchFolder(), 'machine.ova')
  fs.writeFileSync(file, tarOf(entries))
  return file
}

async function firstByte(file: string): Promise<number> {
  await using disk = await openDisk(file)
  const bytes = new Uint8Array(1)
  await disk.read(0, bytes)
  return bytes[0] as number
}

describe('an archive', () => {
  test.each<[string, Entry[]]>([
    ['with a long target of a link, of GNU tar', [{ name: '././@LongLink', type: 'K', content: 'elsewhere\0' }, DISK]],
    ['with nothing where a size was', [{ name: 'empty', size: Buffer.alloc(12, ' ') }, DISK]],
  ])('%s is read', async (_, entries) => {
    expect(await firstByte(written([OVF, ...entries]))).toBe(7)
  })

  test('has names in two parts', async () => {
    const file = written([OVF, { ...DISK, prefix: 'folder/of' }])
    expect(await firstByte(`${file}/folder/of/disk.img`)).toBe(7)
  })

  test.each([
    ['has no length', 'path'],
    ['has a length that is no number', 'x path=y\n'],
    ['says nothing', '5 abc'],
    ['is longer than its header', '30 path=y\n'],
  ])('whose pax record %s is refused', async (_, content) => {
    const file = written([OVF, { name: 'p', type: 'x', content: paxOf({ comment: 'z' }) + content }, DISK])
    const error = await refusal(() => firstByte(file))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'pax header' } })
    expect(error.where.at).toBe(fs.readFileSync(file).indexOf(content))
  })

  test('is one without a doubt by the name of its first member, or its own', () => {
    const sample = (name: string, head: Uint8Array) => ({ name, head, size: head.length, tail: head })
    const [plain, appliance] = [tarOf([DISK]), tarOf([OVF])]
    expect(ova.probe(sample('a.tar', plain))).toBe('perhaps')
    expect(ova.probe(sample('a.OVA', plain))).toBe('yes')
    expect(ova.probe(sample('a.tar', appliance))).toBe('yes')
    expect(ova.probe(sample('a.ova', plain.subarray(0, 300)))).toBe('no')
  })

  test('tells some of its members where one is missing', async () => {
    const many = Array.from({ length: 21 }, (_, number) => ({ name: `m${number}` }))
    const error = await refusal(() => firstByte(`${written(many)}/gone`))
    expect(error.code).toBe('NOT_FOUND')
    expect(error.advice).toMatch(/^Members: "m0", .*"m19", \.\.\.$/)
  })
})

describe('a disk of several members', () => {
  const text = '# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
  const machine = (extent: string): Entry[] => [{ name: 'd.vmdk', content: `${text}RW 2 FLAT "${extent}" 0\n` }, DISK]

  test('reads those beside it', async () => {
    expect(await firstByte(`${written(machine('disk.img'))}/d.vmdk`)).toBe(7)
  })

  test('does not leave the archive', async () => {
    const error = await refusal(() => firstByte(`${written(machine('machine.ova'))}/d.vmdk`))
    expect(error.code).toBe('NOT_FOUND')
  })

  test('writes none of them', async () => {
    const folder = new MemoryFolder()
    folder.files.set('a', new MemoryStore('a', { content: tarOf(machine('disk.img')) }))
    const inside = await promised(ova.open(folder.image('a'), 'd.vmdk'))
    for (const access of ['write', 'create'] as const) {
      const error = await refusal(() => promised(inside.neighbour('disk.img', access)))
      expect(error).toMatchObject({ code: 'READ_ONLY', where: { file: 'a' } })
    }
    await promised(settle(inside.store.close()))
  })
})

describe('a descriptor', () => {
  const envelope = (file: string, disk: string): Buffer =>
    Buffer.from(
      `<Envelope><References><File ${file}/></References><DiskSection><Disk ${disk}/></DiskSection></Envelope>`,
    )

  test('may say next to nothing, and then has a disk without content', () => {
    expect(readOvf(envelope('', ''), 'a')).toEqual({
      files: [{ id: '', href: '', size: undefined, compression: undefined, isChunked: false }],
      disks: [{ id: '', file: undefined, capacity: undefined, format: undefined }],
    })
  })

  test.each([
    ['capacity="3"', 3],
    ['capacity="3" capacityAllocationUnits="byte * 2^30"', 3 * 2 ** 30],
    ['capacity="3" capacityAllocationUnits="byte"', 3],
    ['capacity="3" capacityAllocationUnits="furlong"', undefined],
    ['capacity="999999" capacityAllocationUnits="byte * 2^60"', undefined],
    ['capacity="all"', undefined],
  ])('<Disk %s/> has %s bytes', (disk, capacity) => {
    expect(readOvf(envelope('', disk), 'a').disks[0]?.capacity).toBe(capacity)
  })

  test.each([
    ['compression=""', undefined],
    ['compression="identity"', undefined],
    ['compression="gzip"', 'gzip'],
  ])('<File %s/> is packed with %s', (file, compression) => {
    expect(readOvf(envelope(file, ''), 'a').files[0]?.compression).toBe(compression)
  })
})

describe('a check', () => {
  async function codesOf(entries: readonly Entry[]): Promise<string[]> {
    const report = new CheckReport()
    const folder = new MemoryFolder()
    folder.files.set('a', new MemoryStore('a', { content: tarOf(entries) }))
    await promised(ova.check?.(folder.image('a'), report) as never)
    return report.findings.map(({ code }) => code)
  }

  const names = (...disks: string[]): Entry => ({
    name: 'a.ovf',
    content: ovfOf(disks.map((name) => ({ name, size: 1024, capacity: 1024 }))),
  })

  test('finds that there is no descriptor, and members of one name', async () => {
    expect(await codesOf([DISK, DISK])).toEqual(['NO_DESCRIPTOR', 'SAME_NAME'])
  })

  test('finds disks in another order than they are listed', async () => {
    const other = { ...DISK, name: 'other.img' }
    expect(await codesOf([names('disk.img', 'other.img'), DISK, other])).toEqual([])
    expect(await codesOf([names('disk.img', 'other.img'), other, DISK])).toEqual(['WRONG_ORDER'])
  })

  test('does not miss a disk that lies in pieces under other names', async () => {
    const chunked = ovfOf([{ name: 'd', size: 1024, capacity: 1024, more: 'ovf:chunkSize="512"' }])
    expect(await codesOf([{ name: 'a.ovf', content: chunked }])).toEqual([])
  })

  test('tells a descriptor and a manifest that cannot be read, and goes on', async () => {
    const long = { name: 'a.mf', content: Buffer.alloc((1 << 20) + 1, 10) }
    expect(await codesOf([{ name: 'a.ovf', content: '<a><b></a>' }, long, DISK])).toEqual(['CORRUPT', 'LIMIT_EXCEEDED'])
  })

  test('does not take a medium that fails for damage', async () => {
    const content = tarOf([OVF, { name: 'a.mf', content: 'x' }, DISK])
    const manifestAt = content.indexOf('a.mf') + 512
    const store = watchedStore(new MemoryStore('a', { content }), ({ kind, at }) => {
      if (kind === 'read' && at === manifestAt) throw new VdiskError('IO', { message: 'Cannot read a: a test says so' })
    })
    const folder = new MemoryFolder()
    folder.files.set('a', store)
    const checking = promised(ova.check?.(folder.image('a'), new CheckReport()) as never)
    expect((await refusal(() => checking)).code).toBe('IO')
  })

  test('of a file is that of its archive too', async () => {
    const { findings } = await finish(checkImage(written([DISK, OVF])))
    expect(findings.map(({ code }) => code)).toEqual(['WRONG_ORDER'])
  })
})
