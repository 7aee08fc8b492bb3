import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { childOf, childrenOf, parseXml, type XmlElement } from '../../../lib/bytes/xml.ts'
import { ova } from '../../../lib/containers/ova/container.ts'
import { ovaPacking } from '../../../lib/containers/ova/packing.ts'
import { readArchive } from '../../../lib/containers/ova/tar-reader.ts'
import { tarHeaderOf } from '../../../lib/containers/ova/tar-writer.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { describeWithPeers, runPeer } from '../../support/peers.ts'
import { printSeed, randomFor } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const CAPACITY = 3 << 30
/** 2026-01-01 */
const MADE = 1767225600

/** An appliance around some bytes that stand for a disk. */
async function made(disk: Uint8Array, options: Record<string, string> = {}, file = '/vms/My machine.ova') {
  const store = new MemoryStore(file)
  const writer = ovaPacking.begin(file, CAPACITY, new Map(Object.entries(options)))
  store.write(writer.imageAt, disk)
  await promised(writer.finish(store, MADE))
  const bytes = Buffer.alloc(store.size())
  store.read(0, bytes)
  const { members, ended } = await promised(readArchive(store))
  const contents = members.map(({ at, length }) => bytes.subarray(at, at + length))
  return { store, bytes, members, ended, contents, writer }
}

function rootOf(ovf: Uint8Array): XmlElement {
  return parseXml(ovf, { file: 'x', structure: 'OVF descriptor' }).root
}

const DISK = Buffer.from(randomFor('disk').bytes(100_000))

describe('an appliance that is made', () => {
  test('has descriptor, manifest and disk, in this order, by the letter of ustar', async () => {
    const { bytes, members, ended, contents } = await made(DISK)
    expect(ended).toBe(true)
    expect(members.map(({ name, kind }) => `${kind} ${name}`)).toEqual([
      'file My_machine.ovf',
      'file My_machine.mf',
      'file My_machine-disk1.vmdk',
    ])
    expect(contents[2]?.equals(DISK)).toBe(true)
    for (const { headerAt } of members) {
      expect(bytes.toString('latin1', headerAt + 257, headerAt + 265)).toBe('ustar\u000000')
      expect(bytes.toString('latin1', headerAt + 100, headerAt + 108)).toBe('0000644\0')
      expect(bytes[headerAt + 156]).toBe(0x30)
    }
    expect(bytes.length % 512).toBe(0)
    expect(bytes.subarray(-1024).every((byte) => byte === 0)).toBe(true)
  })

  test('has a manifest with the SHA-256 of both others', async () => {
    const { contents } = await made(DISK)
    const sum = (content: Uint8Array | undefined): string =>
      createHash('sha256')
        .update(content ?? '')
        .digest('hex')
    expect(contents[1]?.toString()).toBe(
      `SHA256(My_machine.ovf)= ${sum(contents[0])}\nSHA256(My_machine-disk1.vmdk)= ${sum(contents[2])}\n`,
    )
  })

  test('tells in its descriptor what is in the archive, and what machine it is for', async () => {
    const { contents } = await made(DISK, {
      cpus: '4',
      memory: '8G',
      firmware: 'efi',
      controller: 'pvscsi',
      name: 'A & <B>',
    })
    const root = rootOf(contents[0] as Buffer)
    const file = childrenOf(childOf(root, 'References') as XmlElement, 'File')[0] as XmlElement
    expect(Object.fromEntries(file.attributes)).toEqual({
      'ovf:href': 'My_machine-disk1.vmdk',
      'ovf:id': 'file1',
      'ovf:size': '100000',
    })
    const disk = childrenOf(childOf(root, 'DiskSection') as XmlElement, 'Disk')[0] as XmlElement
    expect(disk.attributes.get('ovf:capacity')).toBe(String(CAPACITY))
    expect(disk.attributes.get('ovf:fileRef')).toBe('file1')
    expect(disk.attributes.get('ovf:format')).toMatch(/#streamOptimized$/)
    const system = childOf(root, 'VirtualSystem') as XmlElement
    expect(childOf(system, 'Name')?.text).toBe('A & <B>')
    const items = childrenOf(childOf(system, 'VirtualHardwareSection') as XmlElement, 'Item').map((item) =>
      Object.fromEntries(item.children.map(({ name, text }) => [name.replace('rasd:', ''), text])),
    )
    const ofType = (type: string) => items.filter(({ ResourceType }) => ResourceType === type)
    expect(ofType('3')[0]?.VirtualQuantity).toBe('4')
    expect(ofType('4')[0]).toMatchObject({ VirtualQuantity: '8192', AllocationUnits: 'byte * 2^20' })
    expect(ofType('17')[0]).toMatchObject({ HostResource: `ovf:/disk/${disk.attributes.get('ovf:diskId')}` })
    // The disk hangs on the controller.
    expect(ofType('17')[0]?.Parent).toBe(ofType('6')[0]?.InstanceID)
    expect(ofType('6')[0]?.ResourceSubType).toBe('VirtualSCSI')
  })

  test('has what the schema wants: sections with an Info, parts of an item in the order of the alphabet', async () => {
    const root = rootOf((await made(DISK)).contents[0] as Buffer)
    expect(root.children.map(({ name }) => name)).toEqual([
      'References',
      'DiskSection',
      'NetworkSection',
      'VirtualSystem',
    ])
    const walk = (element: XmlElement): void => {
      if (element.name.endsWith('Section')) expect(element.children[0]?.name).toBe('Info')
      if (element.name === 'Item') {
        const names = element.children.map(({ name }) => name)
        expect(names).toEqual([...names].sort())
      }
      element.children.forEach(walk)
    }
    walk(root)
    const ids = (root.children.at(-1)?.children ?? [])
      .flatMap(({ children }) => children)
      .flatMap(({ children }) => children)
      .filter(({ name }) => name.endsWith('InstanceID'))
      .map(({ text }) => text)
    expect(new Set(ids).size).toBe(ids.length)
  })

  test('is found clean by its check, and not after any byte of it has changed', async () => {
    const { store, bytes, members } = await made(DISK)
    const codesOf = async (content: Uint8Array): Promise<string[]> => {
      const report = new CheckReport()
      const image = { name: store.name, store: new MemoryStore('x', { content }), neighbour: () => unreachable() }
      await promised(ova.check?.(image, report) as never)
      return report.findings.map(({ code }) => code)
    }
    expect(await codesOf(bytes)).toEqual([])
    for (const { at, length } of members) {
      const damaged = Buffer.from(bytes)
      damaged[at + (length >> 1)] = (damaged[at + (length >> 1)] as number) ^ 4
      expect((await codesOf(damaged)).length).toBeGreaterThan(0)
    }
  })

  test('leaves the same room however large the disk becomes', async () => {
    for (const length of [0, 1, 511, 512, 513, 1 << 20]) {
      const { contents, writer, members } = await made(Buffer.alloc(length, 1))
      expect(contents[2]?.length).toBe(length)
      expect(members[2]?.at).toBe(writer.imageAt)
    }
  })

  test.each([
    ['/a/b.c.ova', 'b.c'],
    ['x', 'x'],
    ['/a/.ova', 'disk'],
    ['..ova', 'disk'],
    ['/a/../etc/passwd', 'passwd'],
    ['/ä/ü ö.ova', '___'],
    [`/a/${'x'.repeat(200)}.OVA`, 'x'.repeat(80)],
  ])('called %s has members called after it: %s', async (file, stem) => {
    expect((await made(DISK, {}, file)).members.map(({ name }) => name)).toEqual([
      `${stem}.ovf`,
      `${stem}.mf`,
      `${stem}-disk1.vmdk`,
    ])
  })

  test.each([
    [{ cpus: '0' }],
    [{ cpus: 'many' }],
    [{ memory: '1' }],
    [{ memory: '5M' }],
    [{ name: '' }],
    [{ name: 'a\nb' }],
    [{ firmware: 'open' }],
    [{ nonsense: '1' }],
  ])('with the options %j is refused before anything is written', async (options) => {
    const error = await refusal(async () =>
      ovaPacking.begin('x.ova', CAPACITY, new Map(Object.entries(options as object))),
    )
    expect(error.code).toBe('REFUSED')
  })

  test('of more than 8 GiB has the size in binary, as readers know it', async () => {
    for (const length of [8 ** 11 - 1, 8 ** 11, 2 ** 41 + 5]) {
      const store = new MemoryStore('x')
      store.write(0, tarHeaderOf('a', length, MADE))
      store.truncate(512 + length)
      expect((await promised(readArchive(store))).members[0]?.length).toBe(length)
    }
  })
})

describeWithPeers(['tar'], 'GNU tar', () => {
  test('takes out what was put in, without a complaint', async () => {
    const { bytes, contents } = await made(DISK)
    const folder = scratchFolder()
    fs.writeFileSync(path.join(folder, 'm.ova'), bytes)
    const { stdout, stderr } = runPeer('tar', ['-xvf', 'm.ova'], { in: folder })
    expect({ stdout, stderr }).toEqual({ stdout: 'My_machine.ovf\nMy_machine.mf\nMy_machine-disk1.vmdk\n', stderr: '' })
    expect(fs.readFileSync(path.join(folder, 'My_machine-disk1.vmdk')).equals(DISK)).toBe(true)
    expect(fs.readFileSync(path.join(folder, 'My_machine.ovf')).equals(contents[0] as Buffer)).toBe(true)
  })
})

function unreachable(): never {
  throw new Error('nothing asks for that')
}
