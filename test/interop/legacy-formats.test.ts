import fs from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { checkImage, convertDisk, finish, openDisk } from '../../lib/index.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { CLUSTER, qcowBytes } from '../support/qcow-file.ts'
import { expectCleanByUs, expectSameBytes, ourReading } from '../support/qemu.ts'
import { Random } from '../support/random.ts'
import { tempFolder } from '../support/temp.ts'

const MIB = 1 << 20
const folder = tempFolder('legacy')
const file = (name: string): string => path.join(folder, name)

/** A disk with data, holes, and what packs well. */
function source(seed: number): Buffer {
  const random = new Random(seed)
  const bytes = Buffer.alloc(9 * MIB + 512 * 3)
  for (let i = 0; i < 40; i++) {
    const length = 1 + random.below(200_000)
    const at = random.below(bytes.length - length)
    if (random.chance(0.4)) bytes.fill(`${i} once more `, at, at + length)
    else for (let k = at; k < at + length; k++) bytes[k] = random.below(256)
  }
  return bytes
}

const wanted = source(31)

/** The content again, with some of it written anew. */
function changed(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  copy.fill(0xa5, 3 * MIB + 512, 3 * MIB + 512 * 9)
  copy.fill(0, 5 * MIB, 6 * MIB)
  return copy
}

describeWithPeers(['qemu-img', 'qemu-io'], 'QEMU and the formats that it has left behind', () => {
  beforeAll(() => fs.writeFileSync(file('source.raw'), wanted))

  test.each([
    ['qcow', []],
    ['qed', []],
    ['qed', ['-o', 'cluster_size=4096,table_size=16']],
    ['qed', ['-o', 'cluster_size=1M,table_size=16']],
  ])('%s made with %o is read, checked and converted', async (format, options) => {
    runPeer('qemu-img', ['convert', '-f', 'raw', '-O', format, ...options, file('source.raw'), file('made')])
    expectSameBytes(await ourReading(file('made')), wanted, format)
    await expectCleanByUs(file('made'))
    await using disk = await openDisk(file('made'))
    expect(disk.chain.layers[0]?.format).toBe(format)
    await finish(convertDisk(disk.chain, file('converted.qcow2'), { format: 'qcow2', replace: true }))
    expectSameBytes(await ourReading(file('converted.qcow2')), wanted, 'converted')
  })

  test('compressed clusters of qcow read as they do there', async () => {
    const clusters = Array.from({ length: 300 }, (_, i) => {
      const content = wanted.subarray(i * CLUSTER, (i + 1) * CLUSTER)
      return i % 5 === 0
        ? undefined
        : i % 3 === 0
          ? { plain: content }
          : { packed: Buffer.alloc(CLUSTER, `cluster ${i} `) }
    })
    fs.writeFileSync(file('packed.qcow'), qcowBytes(clusters))
    runPeer('qemu-img', ['convert', '-f', 'qcow', '-O', 'raw', file('packed.qcow'), file('packed.raw')])
    const theirs = fs.readFileSync(file('packed.raw'))
    expect(theirs.includes('cluster 299 cluster 299')).toBe(true)
    expectSameBytes(await ourReading(file('packed.qcow')), theirs, 'packed.qcow')
    await expectCleanByUs(file('packed.qcow'))
  })

  test.each(['qcow', 'qed'])('%s over another image shows it, and hides it where it was written', async (format) => {
    for (const [base, baseFormat] of [
      ['source.raw', 'raw'],
      ['base.qcow2', 'qcow2'],
    ] as const) {
      if (baseFormat === 'qcow2')
        runPeer('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', file('source.raw'), file(base)])
      runPeer('qemu-img', ['create', '-q', '-f', format, '-b', base, '-F', baseFormat, file('child')])
      const commands = ['-c', `write -P 0xa5 ${3 * MIB + 512} ${512 * 8}`, '-c', `write -P 0 ${5 * MIB} ${MIB}`]
      runPeer('qemu-io', ['-f', format, ...commands, file('child')])
      expectSameBytes(
        await ourReading(file('child'), { parentFormat: baseFormat }),
        changed(wanted),
        `${format} over ${base}`,
      )
      expect((await finish(checkImage(file('child'), { parentFormat: baseFormat }))).counts.error).toBe(0)
      fs.rmSync(file('child'))
    }
  })

  test('zero clusters of QED hide the parent', async () => {
    runPeer('qemu-img', ['create', '-q', '-f', 'qed', '-b', 'source.raw', '-F', 'raw', file('zeroed.qed')])
    runPeer('qemu-io', [
      '-f',
      'qed',
      '-c',
      `write -z ${5 * MIB} ${MIB}`,
      '-c',
      'write -P 0xa5 3146240 4096',
      file('zeroed.qed'),
    ])
    expectSameBytes(await ourReading(file('zeroed.qed')), changed(wanted), 'zeroed.qed')
  })

  test('a base whose format the image does not say is not guessed', async () => {
    runPeer('qemu-img', ['create', '-q', '-f', 'qcow', '-b', 'source.raw', '-F', 'raw', file('vague.qcow')])
    await expect(openDisk(file('vague.qcow'))).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('an encrypted qcow image is refused', async () => {
    runPeer('qemu-img', ['create', '-q', '-f', 'qcow', file('secret.qcow'), '4M'])
    const bytes = fs.readFileSync(file('secret.qcow'))
    bytes.writeUInt32BE(1, 36)
    fs.writeFileSync(file('secret.qcow'), bytes)
    await expect(openDisk(file('secret.qcow'))).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })

  describe('none of them is written', () => {
    test.each(['qcow', 'qed'])('%s is refused, with what to do', async (format) => {
      runPeer('qemu-img', ['create', '-q', '-f', format, file('still'), '4M'])
      const before = fs.readFileSync(file('still'))
      await expect(openDisk(file('still'), { writable: true })).rejects.toMatchObject({
        code: 'UNSUPPORTED',
        advice: expect.stringContaining('vdisk convert'),
      })
      expect(Buffer.compare(fs.readFileSync(file('still')), before)).toBe(0)
      fs.rmSync(file('still'))
    })
  })
})
