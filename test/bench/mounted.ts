import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { vdisk } from './harness.ts'

/** A disk that somebody serves, until `end`. */
export interface MountedDisk {
  /** what a program opens */
  readonly file: string
  readonly pid: number
  end(): void
}

/** As a user would do it: the command, with its defaults. */
export function mountByVdisk(image: string, ...options: string[]): MountedDisk {
  const mountpoint = fs.mkdtempSync(`${image}-mnt-`)
  const { mounted } = JSON.parse(call([...vdisk, 'mount', image, mountpoint, '--json', ...options])) as {
    mounted: { images: [{ disk: string }]; pid: number }
  }
  return {
    file: mounted.images[0].disk,
    pid: mounted.pid,
    end() {
      call([...vdisk, 'unmount', mountpoint])
      fs.rmdirSync(mountpoint)
    },
  }
}

/** QEMU's own defaults: reads and writes through the page cache as ours, threads, and discard passed on. */
export function mountByQemu(image: string): MountedDisk {
  const place = `${image}.export`
  const pidFile = `${image}.pid`
  fs.writeFileSync(place, '')
  const start = ['qemu-storage-daemon', '--daemonize', '--pidfile', pidFile]
  const file = ['--blockdev', `driver=file,filename=${image},node-name=file,discard=unmap`]
  const disk = ['--blockdev', 'driver=qcow2,file=file,node-name=disk,discard=unmap']
  const shown = ['--export', `type=fuse,id=export,node-name=disk,mountpoint=${place},writable=on`]
  call([...start, ...file, ...disk, ...shown])
  const pid = Number(fs.readFileSync(pidFile, 'utf8'))
  return {
    file: place,
    pid,
    end() {
      process.kill(pid)
      untilGone(pid)
      fs.rmSync(place)
      fs.rmSync(pidFile, { force: true })
    },
  }
}

/** Tools that mount images of a format, each by a library of libyal. They only read. */
export const LIBYAL_TOOLS = { vhd: 'vhdimount', vhdx: 'vhdimount', vmdk: 'vmdkmount', qcow2: 'qcowmount' } as const

/** They show each layer as a file with a number, base first: `vhdi1`, `vhdi2`. */
export function mountByLibyal(image: string, format: keyof typeof LIBYAL_TOOLS): MountedDisk {
  const mountpoint = fs.mkdtempSync(`${image}-mnt-`)
  call([LIBYAL_TOOLS[format], image, mountpoint])
  const layers = fs.readdirSync(mountpoint)
  return {
    file: path.join(mountpoint, (layers[0] as string).replace(/\d+$/, `${layers.length}`)),
    pid: 0,
    end() {
      call(['umount', mountpoint])
      fs.rmdirSync(mountpoint)
    },
  }
}

/** Whether `vdisk mount` knows an option. */
export function mountKnows(option: string): boolean {
  return call([...vdisk, 'mount', '--help']).includes(option)
}

/** A field of /proc/PID/status in MiB. */
export function memoryOf(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024
}

/** Processor time that a process has used, in all of its threads that still run; seconds. */
export function processorTimeOf(pid: number): number {
  const threads = fs.readdirSync(`/proc/${pid}/task`)
  const nanoseconds = (thread: string): number =>
    Number(fs.readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0])
  return threads.reduce((sum, thread) => sum + nanoseconds(thread), 0) / 1e9
}

/** Runs a program to its end. @returns what it printed */
export function call(command: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command[0] as string, command.slice(1), { encoding: 'utf8' })
  if (error) throw error
  if (status !== 0) throw new Error(`${command.join(' ')} failed: ${stderr}`)
  return stdout
}

function untilGone(pid: number): void {
  const still = new Int32Array(new SharedArrayBuffer(4))
  while (fs.existsSync(`/proc/${pid}`)) Atomics.wait(still, 0, 0, 10)
}
