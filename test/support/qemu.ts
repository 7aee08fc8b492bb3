import fs from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import { checkImage, finish, type MapExtent, type OpenOptions, openDisk } from '../../lib/index.ts'
import { runPeer } from './peers.ts'
import type { Random } from './random.ts'

/** QEMU's tools on the images of one folder. Names are relative to it, as they then stand in images. */
export class Qemu {
  readonly folder: string
  private readonly patterns: string[] = []

  constructor(folder: string) {
    this.folder = folder
  }

  path(name: string): string {
    return path.join(this.folder, name)
  }

  img(args: readonly string[], accept: readonly number[] = [0]): string {
    return runPeer('qemu-img', args, { in: this.folder, accept }).stdout
  }

  /** @param options as for `-o`; backing is [name, format] */
  create(
    name: string,
    size: number | undefined,
    options: Readonly<Record<string, string>> = {},
    backing?: readonly [string, string],
  ): void {
    this.img([
      'create',
      '-q',
      '-f',
      'qcow2',
      ...pairs(options),
      ...(backing ? ['-b', backing[0], '-F', backing[1]] : []),
      name,
      ...(size === undefined ? [] : [String(size)]),
    ])
  }

  /** Runs commands of qemu-io on an image; all of them must succeed. */
  io(name: string, commands: readonly string[], options: readonly string[] = ['-f', 'qcow2']): string {
    if (commands.length === 0) return ''
    const given = commands.flatMap((command) => ['-c', command])
    const { stdout } = runPeer('qemu-io', [...options, ...given, name], { in: this.folder })
    expect(stdout).not.toMatch(/failed|error/i)
    return stdout
  }

  /** The content as QEMU reads it. */
  reads(name: string, how: { format?: string; snapshot?: string } = {}): Uint8Array {
    const raw = this.path(`${name}.as-read`)
    const snapshot = how.snapshot === undefined ? [] : ['-l', `snapshot.name=${how.snapshot}`]
    this.img(['convert', '-f', how.format ?? 'qcow2', ...snapshot, '-O', 'raw', name, raw])
    // A plain array: the slice of a Buffer would be no copy.
    const bytes = new Uint8Array(fs.readFileSync(raw))
    fs.rmSync(raw)
    return bytes
  }

  /**
   * A snapshot as QEMU reads it. `convert -l` shows it in the size of the present disk; reverting a copy gives it its own.
   */
  readsSnapshot(name: string, snapshot: string): Uint8Array {
    const copy = `${name}.copy`
    fs.copyFileSync(this.path(name), this.path(copy))
    this.img(['snapshot', '-q', '-a', snapshot, copy])
    const bytes = this.reads(copy)
    fs.rmSync(this.path(copy))
    return bytes
  }

  check(name: string, format = 'qcow2'): { status: number; leaks: number; corruptions: number; report: string } {
    const { status, stdout, stderr } = runPeer('qemu-img', ['check', '-f', format, '--output=json', name], {
      in: this.folder,
      accept: [0, 1, 2, 3],
    })
    const { leaks = 0, corruptions = 0 } = stdout.startsWith('{') ? JSON.parse(stdout) : {}
    return { status, leaks, corruptions, report: stdout + stderr }
  }

  info(name: string): Record<string, unknown> {
    return JSON.parse(this.img(['info', '--output=json', name]))
  }

  /** The dirty ranges of a persistent bitmap, as QEMU serves them over NBD. */
  dirtyRanges(name: string, bitmap: string): { offset: number; length: number }[] {
    const server = ['[', 'qemu-nbd', '-r', '-f', 'qcow2', '-B', bitmap, name, ']']
    const { stdout } = runPeer('nbdinfo', ['--json', `--map=qemu:dirty-bitmap:${bitmap}`, '--', ...server], {
      in: this.folder,
    })
    const ranges = JSON.parse(stdout) as { offset: number; length: number; type: number }[]
    return ranges.filter(({ type }) => type === 1).map(({ offset, length }) => ({ offset, length }))
  }

  /** A `write` of qemu-io with bytes that tell where they belong. */
  write(random: Random, offset: number, length: number, flags = ''): string {
    if (this.patterns.length < 6) {
      const name = `pattern-${this.patterns.length}`
      // A prime length: the pattern never begins twice at the same place of a cluster.
      fs.writeFileSync(this.path(name), random.bytes(10007))
      this.patterns.push(name)
    }
    return `write ${flags} -s ${random.pick(this.patterns)} ${offset} ${length}`
  }

  /** A random history of a disk, as commands of qemu-io. */
  history(random: Random, shape: { size: number; cluster: number; steps: number }): string[] {
    return Array.from({ length: shape.steps }, () => {
      const { offset, length } = randomRange(random, shape)
      const kind = random.below(10)
      if (kind < 6) return this.write(random, offset, length)
      if (kind === 6) return `write -z ${offset} ${length}`
      if (kind === 7) return `write -z -u ${offset} ${length}`
      return `discard ${offset} ${length}`
    })
  }

  /** Compressed writes, each to a cluster of its own: they cannot overwrite. */
  compressedHistory(random: Random, shape: { size: number; cluster: number; steps: number }): string[] {
    const clusters = Math.floor(shape.size / shape.cluster)
    const chosen = new Set(Array.from({ length: shape.steps }, () => random.below(clusters)))
    return [...chosen].map((number) => this.write(random, number * shape.cluster, shape.cluster, '-c'))
  }
}

/** A range somewhere on a disk: within a cluster, about a cluster, or several; on borders and beside them. */
export function randomRange(
  random: Random,
  { size, cluster }: { size: number; cluster: number },
): { offset: number; length: number } {
  const align = random.pick([1, 512, 512, 4096, cluster])
  const limit = random.pick([Math.min(cluster, 8192), cluster, cluster * 2, cluster * 6])
  const offset = Math.min(size - 1, Math.floor(random.below(size) / align) * align)
  const wanted = 1 + random.below(limit)
  const length = random.chance(0.7) ? Math.ceil(wanted / align) * align : wanted
  return { offset, length: Math.max(1, Math.min(length, size - offset, 4 << 20)) }
}

/** Our reading of an image, whole. */
export async function ourReading(file: string, options: OpenOptions = {}): Promise<Uint8Array> {
  await using disk = await openDisk(file, options)
  const bytes = new Uint8Array(disk.size)
  for (let at = 0; at < bytes.length; at += 1 << 20) await disk.read(at, bytes.subarray(at, at + (1 << 20)))
  return bytes
}

/** Fails with the first place where two contents differ. */
export function expectSameBytes(found: Uint8Array, wanted: Uint8Array, what: string): void {
  expect(found.length, `size of ${what}`).toBe(wanted.length)
  if (Buffer.compare(found, wanted) === 0) return
  const at = found.findIndex((byte, i) => byte !== wanted[i])
  expect.fail(`${what} differs at ${at}: found ${found[at]}, expected ${wanted[at]}`)
}

/** Our check finds nothing at all, neither damage nor leaks. */
export async function expectCleanByUs(file: string, options: OpenOptions = {}): Promise<void> {
  const { findings } = await finish(checkImage(file, options))
  expect(findings).toEqual([])
}

/** The exit status of our check, in the classes that QEMU has too: 0 sound, 2 damage, 3 leaks only. */
export async function ourCheckStatus(file: string, options: OpenOptions = {}): Promise<number> {
  const { counts } = await finish(checkImage(file, options))
  return counts.error > 0 ? 2 : counts.leak > 0 ? 3 : 0
}

/** QEMU's check finds neither damage nor leaks. */
export function expectCleanByQemu(qemu: Qemu, name: string): void {
  const { status, report } = qemu.check(name)
  expect(status, report).toBe(0)
}

interface QemuExtent {
  readonly start: number
  readonly length: number
  /** 0 is the top */
  readonly depth: number
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  readonly compressed?: boolean
}

/** Our map and QEMU's say the same of every byte: which layer speaks, and whether it says zero. */
export async function expectSameMap(qemu: Qemu, name: string): Promise<void> {
  const theirs = JSON.parse(qemu.img(['map', '-f', 'qcow2', '--output=json', name])) as QemuExtent[]
  await using disk = await openDisk(qemu.path(name))
  const layers = disk.chain.layers.length
  const ours: MapExtent[] = []
  for await (const extent of disk.extents()) ours.push(extent)
  expect(ours.reduce((sum, { length }) => sum + length, 0)).toBe(disk.size)
  for (const their of theirs) {
    const end = their.start + their.length
    for (const our of ours.filter(({ offset, length }) => offset < end && offset + length > their.start)) {
      const why = `ours ${JSON.stringify(our)}, theirs ${JSON.stringify(their)}`
      // QEMU calls data zero too where the file below has a hole.
      if (our.kind !== 'zero') expect(their.data, why).toBe(true)
      else expect(their.zero, why).toBe(true)
      // What lies behind the end of a layer, hidden by it, QEMU ascribes to none.
      const start = Math.max(our.offset, their.start)
      const hidden = our.depth !== undefined && (disk.chain.layers[our.depth]?.size as number) <= start
      if (our.depth === undefined || hidden) expect(their.present, why).toBe(false)
      else expect(their.present && layers - 1 - their.depth, why).toBe(our.depth)
    }
  }
}

/** Everything that two readers of one image can agree upon. */
export async function expectAgreement(qemu: Qemu, name: string): Promise<Uint8Array> {
  const wanted = qemu.reads(name)
  expectSameBytes(await ourReading(qemu.path(name)), wanted, name)
  expectCleanByQemu(qemu, name)
  await expectCleanByUs(qemu.path(name))
  await expectSameMap(qemu, name)
  return wanted
}

function pairs(options: Readonly<Record<string, string>>): string[] {
  return Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
}
