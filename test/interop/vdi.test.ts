import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk, type Disk, openDisk } from '../../lib/index.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { expectCleanByUs, expectSameBytes, ourReading } from '../support/qemu.ts'
import { Random } from '../support/random.ts'
import { tempFolder } from '../support/temp.ts'

const MIB = 1 << 20
const folder = tempFolder('vdi')

const file = (name: string): string => path.join(folder, name)

/** Random writes, from a seed that the test names. Every byte tells the step. */
async function scribble(disk: Disk, seed: number, steps: number): Promise<void> {
  const random = new Random(seed)
  for (let i = 0; i < steps; i++) {
    const length = 1 + Math.floor(random.fraction() ** 3 * 3 * MIB)
    const at = Math.floor(random.fraction() * (disk.size - length))
    if (random.chance(0.25)) await disk.erase(at, length)
    else await disk.write(at, new Uint8Array(length).fill(1 + ((seed + i) % 255)))
    if (i % 7 === 0) await disk.flush()
  }
}

/** What QEMU reads, and that its check finds nothing. */
function judgedByQemu(name: string): Buffer {
  expect(runPeer('qemu-img', ['check', '-f', 'vdi', file(name)]).stdout).toContain('No errors')
  runPeer('qemu-img', ['convert', '-f', 'vdi', '-O', 'raw', file(name), file(`${name}.raw`)])
  const bytes = fs.readFileSync(file(`${name}.raw`))
  fs.rmSync(file(`${name}.raw`))
  return bytes
}

describeWithPeers(['qemu-img', 'qemu-io'], 'QEMU and VDI', () => {
  test.each([{}, { static: 'on' }])(
    'what vdisk makes and writes is sound, and reads the same there: %o',
    async (options) => {
      const disk = await createDisk(file('ours.vdi'), { format: 'vdi', size: 40 * MIB + 512, options, replace: true })
      await scribble(disk, 11, 60)
      await disk.resize(50 * MIB)
      await scribble(disk, 12, 20)
      await disk.close()
      expectSameBytes(await ourReading(file('ours.vdi')), judgedByQemu('ours.vdi'), 'ours.vdi')
      await expectCleanByUs(file('ours.vdi'))
    },
  )

  test.each([[], ['-o', 'static=on']])(
    'what it makes and writes is read, written on, and still sound there: %o',
    async (...options) => {
      runPeer('qemu-img', ['create', '-q', '-f', 'vdi', ...options.flat(), file('theirs.vdi'), `${30 * MIB}`])
      const random = new Random(5)
      for (let turn = 0; turn < 3; turn++) {
        const commands: string[] = []
        for (let i = 0; i < 12; i++) {
          const length = 512 * (1 + random.below(3000))
          const at = 512 * random.below((30 * MIB - length) / 512)
          commands.push('-c', `write -P ${1 + random.below(250)} ${at} ${length}`)
        }
        runPeer('qemu-io', ['-f', 'vdi', ...commands, file('theirs.vdi')])
        expectSameBytes(await ourReading(file('theirs.vdi')), judgedByQemu('theirs.vdi'), 'theirs.vdi')
        const disk = await openDisk(file('theirs.vdi'), { writable: true })
        await scribble(disk, turn, 15)
        await disk.close()
        expectSameBytes(await ourReading(file('theirs.vdi')), judgedByQemu('theirs.vdi'), 'theirs.vdi')
      }
    },
  )

  test('a disk of its making grows, though the map has no room; and shrinks', async () => {
    // 126 blocks: three more do not fit into the sector of the map, and the blocks follow at once.
    runPeer('qemu-img', ['create', '-q', '-f', 'vdi', file('grown.vdi'), `${126 * MIB}`])
    runPeer('qemu-io', ['-f', 'vdi', '-c', 'write -P 7 0 3M', '-c', 'write -P 9 120M 1M', file('grown.vdi')])
    const disk = await openDisk(file('grown.vdi'), { writable: true })
    await disk.resize(200 * MIB)
    await disk.write(199 * MIB, new Uint8Array(MIB).fill(5))
    await disk.close()
    const grown = judgedByQemu('grown.vdi')
    expect([grown.length, grown[0], grown[120 * MIB], grown[150 * MIB], grown[199 * MIB]]).toEqual([
      200 * MIB,
      7,
      9,
      0,
      5,
    ])
    const smaller = await openDisk(file('grown.vdi'), { writable: true })
    await smaller.resize(2 * MIB)
    await smaller.close()
    expect(judgedByQemu('grown.vdi').every((byte) => byte === 7)).toBe(true)
    expect(fs.statSync(file('grown.vdi')).size).toBeLessThan(6 * MIB)
  })

  test('a first write costs what was written, not a block', async () => {
    const disk = await createDisk(file('cost.vdi'), { format: 'vdi', size: 256 * MIB })
    for (let i = 0; i < 50; i++) {
      await disk.write(i * 5 * MIB + 4096, new Uint8Array(4096).fill(3))
      await disk.flush()
    }
    await disk.close()
    const taken = fs.statSync(file('cost.vdi')).blocks * 512
    // QEMU writes a MiB for each. Ours: the 4 KiB, and the sectors of header and map.
    expect(taken).toBeLessThan(50 * 4096 * 2 + 64 * 1024)
  })

  test('an image that says it is a child, and of nobody, is read as zeros there and refused here', async () => {
    runPeer('qemu-img', ['create', '-q', '-f', 'vdi', file('orphan.vdi'), `${4 * MIB}`])
    const bytes = fs.readFileSync(file('orphan.vdi'))
    bytes.writeUInt32LE(4, 76)
    fs.writeFileSync(file('orphan.vdi'), bytes)
    expect(judgedByQemu('orphan.vdi').every((byte) => byte === 0)).toBe(true)
    await expect(openDisk(file('orphan.vdi'))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
  })
})
