import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { convertDisk, createDisk, type Disk, drivers, finish, openDisk, run } from '../../lib/index.ts'
import { QEMU_FORMATS } from '../support/qemu-formats.ts'
import { benchFolder, compareRates, compareTimes, interleave, timed, vdisk } from './harness.ts'

// Every format that can be made, against QEMU's driver of it. A format that comes into the registry is measured by itself.

const FORMATS = drivers.filter(({ supports, name }) => supports.create && supports.write && name in QEMU_FORMATS)
const MIB = 1 << 20
const ROUNDS = 5

/** Bytes of the disk, and how much of it is data: in runs of 1 to 8 MiB, so that both have to find the holes. */
const CONVERTED = 1024 * MIB
const READ = 256 * MIB

/** Whole commands: any format to any other. */
export async function conversions(): Promise<void> {
  const folder = benchFolder()
  const at = (name: string): string => path.join(folder, name)
  try {
    await makeSources(folder, CONVERTED)
    for (const { name: from } of FORMATS) {
      for (const { name: to } of FORMATS) {
        const one = (command: readonly string[]): number => {
          fs.rmSync(at('out'), { force: true })
          return timed(command, folder, 2 * CONVERTED).seconds
        }
        const [theirFrom, theirTo] = [QEMU_FORMATS[from] as string, QEMU_FORMATS[to] as string]
        const ours = ['convert', '-q', '--no-flush', `source.${from}`, 'out', '--format', to, '--source-format', from]
        const times = await interleave(ROUNDS, {
          vdisk: () => one([...vdisk, ...ours]),
          peer: () => one(['qemu-img', 'convert', '-f', theirFrom, '-O', theirTo, `source.${from}`, 'out']),
        })
        compareTimes(`convert ${from} to ${to}`, times.vdisk as number, times.peer as number, 0.8)
      }
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/** How a disk is read: bytes at a time, and from the start of one read to that of the next, around its end. */
const WAYS = [
  { name: 'sequential read of 1 MiB', length: MIB, step: MIB, count: (READ / MIB) * 8 },
  { name: 'random read of 4 KiB', length: 4096, step: 4096 * 7919, count: 200_000 },
] as const

/** The engines alone, without the start of a program: one read after the other. */
export async function reads(): Promise<void> {
  const folder = benchFolder()
  try {
    await makeSources(folder, READ)
    for (const { name: format } of FORMATS) {
      const file = `source.${format}`
      await using disk = await openDisk(path.join(folder, file), { format })
      for (const way of WAYS) {
        const rates = await interleave(ROUNDS, {
          vdisk: () => ourRate(disk, way),
          peer: () => theirRate(folder, file, QEMU_FORMATS[format] as string, way),
        })
        const show = (rate: number): string => `${(rate / MIB).toFixed(0)} MiB/s`
        compareRates(`${format}: ${way.name}`, rates.vdisk as number, rates.peer as number, 1, show)
      }
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

type Way = (typeof WAYS)[number]

/** @returns bytes per second */
async function ourRate({ chain }: Disk, { length, step, count }: Way): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(length)
  const begun = performance.now()
  for (let i = 0, offset = 0; i < count; i++) {
    const waits = run(chain.read(offset, buffer))
    if (waits) await waits
    offset += step
    if (offset + length > chain.size) offset %= chain.size - length
  }
  return (count * length) / ((performance.now() - begun) / 1000)
}

function theirRate(folder: string, file: string, format: string, { length, step, count }: Way): number {
  const amount = ['-c', `${count}`, '-s', `${length}`, '-S', `${step}`, '-d', '1']
  const { stdout, stderr } = spawnSync('qemu-img', ['bench', '-f', format, ...amount, file], {
    cwd: folder,
    encoding: 'utf8',
  })
  const seconds = /completed in ([\d.]+) seconds/.exec(stdout)?.[1]
  if (seconds === undefined) throw new Error(`qemu-img bench says: ${stdout} ${stderr}`)
  return (count * length) / Number(seconds)
}

/** The same disk in every format, made by us. */
async function makeSources(folder: string, size: number): Promise<void> {
  const raw = path.join(folder, 'source.raw')
  {
    await using disk = await createDisk(raw, { format: 'raw', size })
    for (let offset = 0, i = 1; offset < size; offset += (1 + ((i * 5) % 8)) * MIB, i++) {
      if (i % 5 !== 0) await disk.write(offset, noise(Math.min(size - offset, (1 + ((i * 5) % 8)) * MIB), i))
    }
  }
  for (const { name: format } of FORMATS) {
    if (format === 'raw') continue
    await using disk = await openDisk(raw, { format: 'raw' })
    await finish(convertDisk(disk.chain, path.join(folder, `source.${format}`), { format, durable: false }))
  }
  execFileSync('sync')
}

function noise(length: number, seed: number): Buffer {
  const words = new Uint32Array(length / 4)
  for (let i = 0, word = seed; i < words.length; i++) {
    word = (Math.imul(word, 1664525) + 1013904223) >>> 0
    words[i] = word
  }
  return Buffer.from(words.buffer)
}
