import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { checkImage, createDisk, finish } from '../../lib/index.ts'
import { FILE_SYSTEMS, type FileSystem } from '../support/inner-filesystems.ts'
import { Bench, isRunning, must, until, whyNoLoops, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'
import { printSeed, Random, randomFor } from '../support/random.ts'

const MIB = 1 << 20
/** The least that all of them take: xfs wants 300 MiB. */
const SIZE = 320 * MIB
const WRITER = path.join(import.meta.dirname, '..', 'support', 'steady-writer.mjs')

printSeed()

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(() => bench.clean())
afterAll(() => bench.dispose())

const EMPTY_IMAGES = {
  qcow2: () => makeImage({ format: 'qcow2', size: SIZE }),
  'dynamic VHDX': () => makeImage({ format: 'vhdx', size: SIZE }),
}

/** Images that hold a file system already. */
const FORMATTED_IMAGES: Record<string, (fileSystem: FileSystem) => Promise<string>> = {
  qcow2: async (fileSystem) => await formatted(await EMPTY_IMAGES.qcow2(), fileSystem),
  'dynamic VHDX': async (fileSystem) => await formatted(await EMPTY_IMAGES['dynamic VHDX'](), fileSystem),
  // What the base holds of the file system, the child changes.
  'qcow2 over VHDX': async (fileSystem) => {
    const parent = await formatted(await EMPTY_IMAGES['dynamic VHDX'](), fileSystem)
    return await makeImage({ format: 'qcow2', parent })
  },
}

const noMounts = whyNoMounts() ?? whyNoPrograms({ name: 'losetup', package: 'mount' }) ?? whyNoLoops()

for (const fileSystem of FILE_SYSTEMS) {
  const missing = noMounts ?? whyNoPrograms(...fileSystem.programs)
  const name = `${fileSystem.name} in a mounted disk`
  describe.skipIf(missing !== undefined)(missing ? `${name} (skipped: ${missing})` : name, () => {
    test.each(Object.entries(EMPTY_IMAGES))('is made, used and found again, in %s', async (_, make) => {
      const image = await make()
      const wanted = await onDevice(image, async (device) => {
        fileSystem.make(device)
        const inside = await fileSystem.mount(bench, device)
        const hashes = useIt(inside.at)
        await inside.unmount()
        fileSystem.check(device)
        return hashes
      })
      expect(await errorsIn(image)).toEqual([])
      await onDevice(image, async (device) => {
        fileSystem.check(device)
        const inside = await fileSystem.mount(bench, device)
        expect(hashesIn(inside.at)).toMatchObject(wanted)
        await inside.unmount()
      })
    })

    test.each(Object.entries(FORMATTED_IMAGES))(
      'keeps what was durable when the server of the disk is killed, in %s',
      async (kind, make) => {
        const image = await make(fileSystem)
        const durable = await writeUntilKilled(image, fileSystem, randomFor(`${fileSystem.name} ${kind}`).below(12) + 4)
        expect(await errorsIn(image)).toEqual([])
        await onDevice(image, async (device) => {
          await fileSystem.recover(bench, device)
          fileSystem.check(device)
          const inside = await fileSystem.mount(bench, device)
          expect(hashesIn(inside.at)).toMatchObject(durable)
          // It can be used on.
          fill(inside.at, 'afterwards', new Random(2))
          await inside.unmount()
          fileSystem.check(device)
        })
      },
    )
  })
}

/** Writes files without end, and kills the server of the disk. @returns what was durable by then, and its hashes */
async function writeUntilKilled(image: string, fileSystem: FileSystem, files: number): Promise<Record<string, string>> {
  const mounted = await bench.mount({ image })
  const loop = bench.attach(mounted.disk)
  const inside = await fileSystem.mount(bench, loop.device)
  const device = fileSystem.simple ? [loop.device] : []
  const writer = spawn(process.execPath, [WRITER, inside.at, ...device], { stdio: ['ignore', 'pipe', 'ignore'] })
  bench.onClean(() => writer.kill('SIGKILL'))
  const durable: Record<string, string> = {}
  for await (const line of readline.createInterface({ input: writer.stdout })) {
    const [name, hash] = line.split(' ') as [string, string]
    durable[name] = hash
    if (Object.keys(durable).length === files) process.kill(mounted.pid, 'SIGKILL')
  }
  if (Object.keys(durable).length < files)
    throw new Error(`The writer gave up after ${Object.keys(durable).length} files`)
  await until(() => !isRunning(mounted.pid))
  await inside.unmount()
  await loop.detach()
  expect((await unmountAt(mounted.mountpoint)).ended).toBe('died')
  return durable
}

/** Copies, renames, deletes, syncs. @returns what must be found later */
function useIt(folder: string): Record<string, string> {
  fill(folder, 'new', new Random(3))
  must('cp', '-r', path.join(folder, 'new'), path.join(folder, 'copied'))
  fs.renameSync(path.join(folder, 'new', 'file 3'), path.join(folder, 'renamed'))
  fs.rmSync(path.join(folder, 'new', 'file 4'))
  const file = fs.openSync(path.join(folder, 'copied', 'file 0'), 'r+')
  fs.writeSync(file, 'in the middle', 1000)
  fs.fsyncSync(file)
  fs.closeSync(file)
  const hashes = hashesIn(folder)
  expect(Object.keys(hashes).length).toBe(23)
  return hashes
}

/** A folder of files of all lengths. */
function fill(folder: string, name: string, random: Random): void {
  fs.mkdirSync(path.join(folder, name))
  for (let index = 0; index < 12; index++) {
    fs.writeFileSync(path.join(folder, name, `file ${index}`), random.bytes(random.below(200_000)))
  }
}

function hashesIn(folder: string): Record<string, string> {
  const files = fs.readdirSync(folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
  return Object.fromEntries(
    files.map((one) => {
      const file = path.join(one.parentPath, one.name)
      return [path.relative(folder, file), createHash('sha256').update(fs.readFileSync(file)).digest('hex')]
    }),
  )
}

/** Puts a file system into an image, and files into that. */
async function formatted(image: string, fileSystem: FileSystem): Promise<string> {
  await onDevice(image, async (device) => {
    fileSystem.make(device)
    const inside = await fileSystem.mount(bench, device)
    fill(inside.at, 'old', new Random(1))
    await inside.unmount()
  })
  return image
}

async function makeImage(shape: { format: string; size?: number; parent?: string }): Promise<string> {
  const folder = shape.parent === undefined ? bench.directory('images') : path.dirname(shape.parent)
  const image = path.join(folder, `${shape.parent === undefined ? 'disk' : 'child'}.${shape.format}`)
  await (await createDisk(image, shape)).close()
  return image
}

/** Mounts an image, makes a block device of the disk, and ends both. */
async function onDevice<T>(image: string, work: (device: string) => Promise<T>): Promise<T> {
  const mounted = await bench.mount({ image })
  const loop = bench.attach(mounted.disk)
  const result = await work(loop.device)
  await loop.detach()
  expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
  return result
}

/** Leaks are no damage. */
async function errorsIn(image: string): Promise<unknown[]> {
  const { findings } = await finish(checkImage(image, { chain: true }))
  return findings.filter(({ severity }) => severity === 'error')
}
