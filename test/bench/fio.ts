import { spawnSync } from 'node:child_process'

/** What fio does to a mounted disk. All of it past the kernel's cache of the mount: what is measured is who serves. */
export interface Load {
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite' | 'randrw'
  /** bytes of a request; or several sizes, as fio's `bssplit` */
  readonly block: number | string
  /** requests at once */
  readonly depth: number
  /** bytes: where on the disk */
  readonly offset?: number
  readonly size: number
  /** how long: seconds, or bytes */
  readonly seconds?: number
  readonly bytes?: number
  /** what decides the places */
  readonly seed?: number
}

/** How requests are sent when there are several at once. */
export const ENGINES = ['libaio', 'io_uring', 'psync'] as const
export type Engine = (typeof ENGINES)[number]

/** One run. @returns bytes in a second, read and written */
export function fio(file: string, load: Load, engine: Engine): number {
  const { read, write } = run(file, load, engine)
  return read.bw_bytes + write.bw_bytes
}

/** How long writes take: half of them, and all but one in a hundred; microseconds. */
export interface Latency {
  readonly median: number
  readonly p99: number
}

/** One run of writes. */
export function writeLatency(file: string, load: Load, engine: Engine): Latency {
  const { percentile } = run(file, load, engine).write.clat_ns
  if (!percentile) throw new Error(`fio wrote nothing to ${file}`)
  return { median: percentile['50.000000'] / 1000, p99: percentile['99.000000'] / 1000 }
}

function run(file: string, load: Load, engine: Engine): Job {
  const { rw, block, depth, offset = 0, size, seconds, bytes, seed = 1 } = load
  const deep = depth === 1 ? ['--ioengine=psync'] : parallel(engine, depth)
  const job = [
    '--name=bench',
    `--filename=${file}`,
    `--rw=${rw}`,
    typeof block === 'number' ? `--bs=${block}` : `--bssplit=${block}`,
    ...deep,
    '--direct=1',
    '--norandommap',
    `--randseed=${seed}`,
    // Bytes that are made once: fio shall not be what is measured.
    '--zero_buffers=0',
    '--refill_buffers=0',
    '--scramble_buffers=0',
    `--offset=${offset}`,
    `--size=${size}`,
    ...(seconds === undefined ? [`--io_size=${bytes ?? size}`] : ['--time_based', `--runtime=${seconds}`]),
    // Places where the disk might end up, not the file system it lies in.
    '--allow_file_create=0',
    '--output-format=json',
  ]
  const { status, stdout, stderr, error } = spawnSync('fio', job, { encoding: 'utf8', maxBuffer: 64 << 20 })
  if (error) throw error
  if (status !== 0) throw new Error(`fio ${job.join(' ')} failed: ${stderr}${stdout}`)
  const [result] = (JSON.parse(stdout.slice(stdout.indexOf('{'))) as { jobs: Job[] }).jobs
  if (!result) throw new Error(`fio ${job.join(' ')} told nothing`)
  return result
}

interface Job {
  readonly read: { readonly bw_bytes: number }
  readonly write: {
    readonly bw_bytes: number
    /** nanoseconds */
    readonly clat_ns: { readonly percentile?: { readonly '50.000000': number; readonly '99.000000': number } }
  }
}

/** One process that has many requests under way; or, with calls that wait, as many threads. */
function parallel(engine: Engine, depth: number): string[] {
  return engine === 'psync'
    ? ['--ioengine=psync', `--numjobs=${depth}`, '--thread', '--group_reporting']
    : [`--ioengine=${engine}`, `--iodepth=${depth}`]
}

/** As users copy a disk: through the kernel's cache of the mount, which holds nothing of it yet. @returns bytes in a second */
export function readByDd(file: string, bytes: number): number {
  forget(file)
  return dd([`if=${file}`, 'of=/dev/null', 'bs=1M', `count=${bytes / 2 ** 20}`])
}

/** @returns bytes in a second, until all of it is durable */
export function writeByDd(file: string, bytes: number): number {
  return dd(['if=/dev/zero', `of=${file}`, 'bs=1M', `count=${bytes / 2 ** 20}`, 'conv=notrunc,fsync'])
}

/** The kernel drops what it holds of a file's content; of this file only, since others measure here too. */
export function forget(file: string): void {
  dd([`if=${file}`, 'iflag=nocache', 'count=0', 'of=/dev/null'])
}

function dd(args: readonly string[]): number {
  const env = { ...process.env, LC_ALL: 'C' }
  const { status, stderr, error } = spawnSync('dd', args, { encoding: 'utf8', env })
  if (error) throw error
  if (status !== 0) throw new Error(`dd ${args.join(' ')} failed: ${stderr}`)
  // "1073741824 bytes (1.1 GB, 1.0 GiB) copied, 0.512 s, 2.1 GB/s"
  const [, bytes, seconds] = /^(\d+) bytes.* copied, ([\d.e+-]+) s/m.exec(stderr) ?? []
  return Number(bytes) / Number(seconds)
}
