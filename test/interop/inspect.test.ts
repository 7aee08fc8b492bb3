import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { INSPECTED_FORMATS, type JudgeOptions, judgeImage } from '../../lib/index.ts'
import { allCorpusEntries, type CorpusEntry, corpusMissing, restored } from '../support/corpus.ts'
import { codesIn } from '../support/judging.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('inspect')
const EVERYTHING: JudgeOptions = { allow: INSPECTED_FORMATS }

async function judged(file: string, options: JudgeOptions = EVERYTHING): Promise<[string, ...string[]]> {
  const judgement = await judgeImage(path.join(folder, file), options)
  return [judgement.verdict, ...codesIn(judgement)]
}

function qemu(...args: string[]): void {
  runPeer('qemu-img', args, { in: folder })
}

/** It measures the processor before it chooses how often to hash, and gives up where others take too much of that. */
function qemuEncrypting(...args: string[]): void {
  for (let attempts = 50; ; attempts--) {
    const { status, stderr } = runPeer('qemu-img', args, { in: folder, accept: 'any' })
    if (status === 0) return
    if (attempts === 0 || !stderr.includes('CPU usage')) throw new Error(stderr)
  }
}

describeWithPeers(['qemu-img'], 'images that qemu-img makes', () => {
  test.each([
    ['raw', 'raw', []],
    ['qcow2', 'qcow2', []],
    ['qcow2', 'qcow2', ['-o', 'compat=0.10']],
    ['qcow2', 'qcow2', ['-o', 'cluster_size=2M,extended_l2=on,preallocation=metadata']],
    ['qcow2', 'qcow2', ['-o', 'lazy_refcounts=on,refcount_bits=1,compression_type=zstd']],
    ['qcow', 'qcow', []],
    ['qed', 'qed', []],
    ['vdi', 'vdi', []],
    ['vdi', 'vdi', ['-o', 'static=on']],
    ['vpc', 'vhd', []],
    ['vpc', 'vhd', ['-o', 'subformat=fixed']],
    ['vpc', 'vhd', ['-o', 'force_size=on']],
    ['vhdx', 'vhdx', []],
    ['vhdx', 'vhdx', ['-o', 'subformat=fixed']],
    ['vmdk', 'vmdk', []],
    ['vmdk', 'vmdk', ['-o', 'subformat=streamOptimized']],
    ['parallels', 'parallels', []],
  ])('%s, known as %s, with %j: nothing speaks against it', async (format, name, options) => {
    qemu('create', '-q', '-f', format, ...options, 'plain', '16M')
    const { verdict, format: found, findings } = await judgeImage(path.join(folder, 'plain'), EVERYTHING)
    expect([found, verdict, findings.filter(({ severity }) => severity !== 'note')]).toEqual([name, 'accept', []])
  })

  test('a backing file, one by a protocol, a data file', async () => {
    qemu('create', '-q', '-f', 'raw', 'base', '1M')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', 'child')
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'json:{"driver":"file","filename":"/x"}', '-F', 'raw', 'json', '1M')
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'nbd://localhost/x', '-F', 'raw', 'nbd', '1M')
    qemu('create', '-q', '-f', 'qcow2', '-o', 'data_file=elsewhere', 'data', '1M')
    for (const file of ['child', 'json', 'nbd']) expect(await judged(file)).toEqual(['refuse', 'PARENT_REFERENCE'])
    expect(await judged('data')).toEqual(['refuse', 'EXTERNAL_DATA'])
  })

  test('a loop of backing files is not followed', async () => {
    qemu('create', '-q', '-f', 'qcow2', 'a', '1M')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'a', '-F', 'qcow2', 'b')
    qemu('rebase', '-u', '-b', 'b', '-F', 'qcow2', 'a')
    expect(await judged('a')).toEqual(['refuse', 'PARENT_REFERENCE'])
  })

  test.each(['monolithicFlat', 'twoGbMaxExtentFlat', 'twoGbMaxExtentSparse'])('a VMDK of type %s', async (type) => {
    qemu('create', '-q', '-f', 'vmdk', '-o', `subformat=${type}`, 'flat.vmdk', '1M')
    expect(await judged('flat.vmdk')).toEqual(['refuse', 'EXTERNAL_DATA', 'INCOMPLETE'])
  })

  test('a child of a VMDK', async () => {
    qemu('create', '-q', '-f', 'vmdk', 'base.vmdk', '1M')
    qemu('create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', 'child.vmdk')
    expect(await judged('child.vmdk')).toEqual(['refuse', 'PARENT_REFERENCE'])
  })

  test('encryption', async () => {
    const secret = ['--object', 'secret,id=s,data=x']
    qemuEncrypting(
      'create',
      '-q',
      ...secret,
      '-f',
      'qcow2',
      '-o',
      'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
      'e',
      '1M',
    )
    qemuEncrypting('create', '-q', ...secret, '-f', 'luks', '-o', 'key-secret=s,iter-time=10', 'luks', '1M')
    expect(await judged('e')).toEqual(['refuse', 'ENCRYPTED'])
    expect(await judged('luks', {})).toEqual(['refuse', 'FORMAT_NOT_ALLOWED'])
    expect(await judged('luks')).toEqual(['accept'])
  })

  test('a hundred terabytes in two megabytes', async () => {
    qemu('create', '-q', '-f', 'qcow2', 'huge', '100T')
    expect(await judged('huge')).toEqual(['refuse', 'DISK_TOO_LARGE'])
    expect(await judged('huge', { maxSize: 200 * 2 ** 40 })).toEqual(['warn', 'HUGE_FOR_FILE'])
  })

  test('sixty-four megabytes that are one byte again and again, packed', async () => {
    fs.writeFileSync(path.join(folder, 'ones'), Buffer.alloc(64 << 20, 1))
    qemu('convert', '-q', '-c', '-f', 'raw', '-O', 'qcow2', 'ones', 'packed')
    expect(await judged('packed')).toEqual(['warn', 'PACKED_TIGHTLY'])
  })

  test('snapshots are told of', async () => {
    qemu('create', '-q', '-f', 'qcow2', 'snapshots', '1M')
    for (let i = 0; i < 3; i++) qemu('snapshot', '-c', `s${i}`, 'snapshots')
    expect(await judged('snapshots')).toEqual(['accept', 'HIDDEN_STATES'])
  })
})

describeWithPeers(['xorrisofs'], 'discs', () => {
  test('a disc, and one with the header of an image before it', async () => {
    fs.mkdirSync(path.join(folder, 'files'), { recursive: true })
    fs.writeFileSync(path.join(folder, 'files', 'one'), 'one')
    runPeer('xorrisofs', ['-quiet', '-o', 'disc', 'files'], { in: folder })
    expect(await judged('disc')).toEqual(['accept'])
    const bytes = fs.readFileSync(path.join(folder, 'disc'))
    bytes.write('QFI\xfb\0\0\0\x03', 0, 'latin1')
    fs.writeFileSync(path.join(folder, 'both'), bytes)
    const [verdict, ...codes] = await judged('both', { format: 'iso' })
    expect(verdict).toBe('refuse')
    expect(codes).toContain('AMBIGUOUS_FORMAT')
  })
})

/** What speaks against real images: what they need besides themselves, and what is really wrong with them. */
const REFUSED: Readonly<Record<string, readonly string[]>> = {
  'qcow2/cdi-cirros-snapshots': ['PARENT_REFERENCE'],
  'vmdk/secron-twogbflat': ['EXTERNAL_DATA', 'INCOMPLETE'],
  'vmdk/secron-twogbsparse-empty': ['EXTERNAL_DATA', 'INCOMPLETE'],
  'parallels/dissect-expanding': ['EXTERNAL_DATA'],
  'vhdx/iotests-dirtylog-10G-4M': ['PENDING_LOG'],
  // Its checksums are wrong in truth: it was made by hand from another one.
  'vhd/dfvfs-image-differential': ['BAD_CHECKSUM', 'PARENT_REFERENCE'],
  // Whoever made them broke them on purpose: an L2 table past the end, a cluster with two owners.
  'qcow2/iotests-check-060-1': ['DAMAGED'],
  'qcow2/iotests-check-112-3': ['DAMAGED'],
}

describe.skipIf(corpusMissing)(`images of other makers${corpusMissing ? ` (skipped: ${corpusMissing})` : ''}`, () => {
  test.each(allCorpusEntries.map((entry): [string, CorpusEntry] => [entry.id, entry]))('%s', async (id, entry) => {
    const file = restored(entry, folder)
    const { findings, format, size } = await judgeImage(file, EVERYTHING)
    const refused = findings.filter(({ severity }) => severity === 'refuse').map(({ code }) => code)
    expect([...new Set(refused)].sort()).toEqual(REFUSED[id] ?? [])
    if (entry.kind === 'corrupt') return
    expect(format).toBe(entry.format)
    if (size !== undefined && entry.kind === 'good') expect(size).toBe(entry.virtual_size)
  })
})
