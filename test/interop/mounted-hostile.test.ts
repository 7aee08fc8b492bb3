import fs from 'node:fs'
import path from 'node:path'
import { unmountAt } from '../../fuse/daemon.ts'
import { createDisk, isVdiskError } from '../../lib/index.ts'
import { describeIf, MIB, noise, useBench } from '../support/mount-suite.ts'
import { execute, isRunning, whyNoMounts } from '../support/mounts.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'

/** Where the structures of a small image lie: bytes that are damaged. */
const SHAPES = [
  { format: 'qcow2', options: { cluster_size: '4096' }, metadata: 96 << 10 },
  { format: 'vhdx', options: { block_size: '1M' }, metadata: 4 * MIB },
] as const

/** Seconds that a program may wait for an answer; none is one that hangs. */
const PATIENCE = '20'

describeIf(whyNoMounts(), 'a mount of an image with damaged tables', () => {
  const bench = useBench()
  printSeed()

  for (const shape of SHAPES) {
    for (let round = 0; round < 8; round++) {
      randomTest(`${shape.format}, ${round}: is refused, or answers everything and ends`, async (random) => {
        const image = await damagedImage(random, shape)
        let mounted: Awaited<ReturnType<typeof bench.mount>>
        try {
          mounted = await bench.mount({ image })
        } catch (error) {
          if (!isVdiskError(error)) throw error
          return
        }
        const ask = (...command: string[]): string => {
          const { status, stdout, stderr } = execute('timeout', PATIENCE, ...command)
          if (status === 124) throw new Error(`${command.join(' ')} was not answered`)
          return stdout + stderr
        }
        ask('ls', '-lR', mounted.mountpoint)
        ask('cat', path.join(mounted.mountpoint, 'status.json'))
        ask('dd', `if=${mounted.disk}`, 'of=/dev/null', 'bs=64K', 'conv=noerror')
        for (const block of [0, 17, 63]) {
          ask('dd', 'if=/dev/urandom', `of=${mounted.disk}`, 'bs=32K', 'count=1', `seek=${block}`, 'conv=notrunc,fsync')
        }
        ask('fallocate', '--punch-hole', '--offset', '0', '--length', '131072', mounted.disk)
        if (!isRunning(mounted.pid))
          throw new Error(`the server died: ${fs.readFileSync(mounted.log as string, 'utf8')}`)
        try {
          await unmountAt(mounted.mountpoint)
        } catch (error) {
          // What cannot be written any more is told, with the end of the mount.
          if (!isVdiskError(error)) throw error
        }
        if (isRunning(mounted.pid)) throw new Error('the server did not end')
      })
    }
  }

  async function damagedImage(random: Random, { format, options, metadata }: (typeof SHAPES)[number]): Promise<string> {
    const image = bench.place(`damaged.${format}`)
    {
      await using disk = await createDisk(image, { format, size: 4 * MIB, options })
      for (let at = 0; at < 2 * MIB; at += 160 << 10) await disk.write(at, noise(8192, at + 1))
    }
    const bytes = fs.readFileSync(image)
    for (let count = 1 + random.below(24); count > 0; count--) {
      const at = random.below(Math.min(metadata, bytes.length))
      // Where nothing is, nothing can be damaged.
      const place = bytes.subarray(at).findIndex((byte) => byte !== 0)
      if (place !== -1 && at + place < metadata) bytes[at + place] = random.below(256)
    }
    fs.writeFileSync(image, bytes)
    return image
  }
})
