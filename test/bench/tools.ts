import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { createDisk, finish, mergeImage, openDisk } from '../../lib/index.ts'
import { benchFolder, compareTimes, interleave, report, timed, vdisk, warmMemory } from './harness.ts'

const ROUNDS = 5
const GIB = 2 ** 30

/** Whole commands beside qemu-img's. */
export async function convert(): Promise<void> {
  const folder = benchFolder()
  try {
    const raw = fs.openSync(path.join(folder, 'data.raw'), 'w')
    const block = Buffer.alloc(16 << 20)
    for (let i = 0; i < (2 * GIB) / block.length; i++) {
      for (let at = 0; at < block.length; at += 4)
        block.writeUInt32LE((Math.imul(i * 4194304 + at, 2654435761) ^ (at >>> 3)) >>> 0, at)
      fs.writeSync(raw, block)
    }
    // Holes between the data, so that both have to find them.
    fs.ftruncateSync(raw, 3 * GIB)
    fs.closeSync(raw)
    execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', 'data.raw', 'source.qcow2'], { cwd: folder })
    fs.rmSync(path.join(folder, 'data.raw'))
    for (const format of ['raw', 'qcow2']) {
      const out = `out.${format}`
      const clean = (): void => fs.rmSync(path.join(folder, out), { force: true })
      const blocks: Record<string, number> = {}
      const one = (name: string, command: readonly string[]): number => {
        clean()
        const { seconds } = timed(command, folder, 3 * GIB)
        blocks[name] = fs.statSync(path.join(folder, out)).blocks
        return seconds
      }
      const times = await interleave(ROUNDS, {
        // qemu-img does not wait for the medium either.
        vdisk: () => one('vdisk', [...vdisk, 'convert', '-q', '--no-flush', 'source.qcow2', out, '--format', format]),
        peer: () => one('peer', ['qemu-img', 'convert', '-f', 'qcow2', '-O', format, 'source.qcow2', out]),
      })
      compareTimes(`convert qcow2 to ${format}, 2 GiB of data`, times.vdisk as number, times.peer as number, 1)
      report({
        what: `room that the ${format} output takes`,
        ours: `${((blocks.vdisk as number) / 2048).toFixed(1)} MiB`,
        peer: `${((blocks.peer as number) / 2048).toFixed(1)} MiB`,
        ratio: `${((blocks.peer as number) / (blocks.vdisk as number)).toFixed(3)}x`,
        goal: '>= 0.99x',
        reached: (blocks.peer as number) >= (blocks.vdisk as number) * 0.99,
      })
      clean()
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/**
 * Overlays over a full base; every round merges fresh copies. As a command, and by a program that has vdisk loaded. On a
 * disk: both make their result durable, which is part of the work.
 */
export async function merge(): Promise<void> {
  for (const mib of [100, 300, 500]) await mergeOf(mib)
}

async function mergeOf(mib: number): Promise<void> {
  const folder = benchFolder('disk')
  const at = (name: string): string => path.join(folder, name)
  try {
    fs.mkdirSync(at('originals'))
    {
      await using base = await createDisk(at('originals/base.qcow2'), { format: 'qcow2', size: GIB })
      const block = Buffer.alloc(4 << 20, 1)
      for (let offset = 0; offset < base.size; offset += block.length) await base.write(offset, block)
    }
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2'], {
      cwd: at('originals'),
    })
    {
      await using top = await openDisk(at('originals/top.qcow2'), { writable: true })
      for (let number = 0; number < mib; number++)
        await top.write(((number * 7) % 1024) << 20, Buffer.alloc(1 << 20, number + 1))
    }
    const fresh = (): void => {
      fs.copyFileSync(at('originals/base.qcow2'), at('base.qcow2'))
      fs.copyFileSync(at('originals/top.qcow2'), at('top.qcow2'))
      execFileSync('sync')
    }
    const times = await interleave(ROUNDS, {
      command: () => {
        fresh()
        return timed([...vdisk, 'merge', '-q', 'top.qcow2'], folder).seconds
      },
      library: async () => {
        fresh()
        warmMemory(256 << 20)
        const start = performance.now()
        await finish(mergeImage(at('top.qcow2')))
        return (performance.now() - start) / 1000
      },
      peer: () => {
        fresh()
        return timed(['qemu-img', 'commit', '-q', 'top.qcow2'], folder).seconds
      },
      least: () => {
        fresh()
        return timed([process.execPath, '-e', '0'], folder).seconds + medium(at('top.qcow2'), at('base.qcow2'))
      },
    })
    const { command, library, peer, least } = times as Record<'command' | 'library' | 'peer' | 'least', number>
    compareTimes(`merge an overlay of ${mib} MiB, in a running program`, library, peer, 1.5)
    compareTimes('the same as a command, start of Node included', command, peer, 1.5)
    report({
      what: 'what no command of Node goes below: its start, and the medium',
      ours: `${least.toFixed(3)} s`,
      peer: `${peer.toFixed(3)} s`,
      ratio: `${(peer / least).toFixed(2)}x`,
      goal: '-',
      reached: true,
    })
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/** How long the medium takes for all bytes of a file: they are put over another, and then made durable. @returns seconds */
function medium(from: string, to: string): number {
  const [source, target] = [fs.openSync(from, 'r'), fs.openSync(to, 'r+')]
  try {
    const block = Buffer.alloc(1 << 20)
    for (let left = fs.fstatSync(source).size; left > 0; ) {
      const count = fs.readSync(source, block)
      left -= fs.writeSync(target, block, 0, count)
    }
    const start = performance.now()
    fs.fdatasyncSync(target)
    return (performance.now() - start) / 1000
  } finally {
    fs.closeSync(source)
    fs.closeSync(target)
  }
}

export async function check(): Promise<void> {
  const folder = benchFolder()
  try {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', 'big.qcow2', '1T'], {
      cwd: folder,
    })
    let rss = 0
    const times = await interleave(ROUNDS, {
      vdisk: () => {
        const result = timed([...vdisk, 'check', '-q', 'big.qcow2'], folder)
        rss = Math.max(rss, result.rss)
        return result.seconds
      },
      peer: () => timed(['qemu-img', 'check', '-q', 'big.qcow2'], folder).seconds,
    })
    compareTimes('check a full qcow2 of 1 TiB', times.vdisk as number, times.peer as number, 1 / 1.5)
    reportMemory('memory of that check', rss, 200)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

export async function info(): Promise<void> {
  const folder = benchFolder()
  try {
    execFileSync(vdisk[0] as string, [vdisk[1] as string, 'create', 'x.qcow2', '--format', 'qcow2', '--size', '10G'], {
      cwd: folder,
    })
    const times = await interleave(11, {
      vdisk: () => timed([...vdisk, 'info', 'x.qcow2'], folder).seconds * 1000,
      node: () => timed([process.execPath, '-e', '0'], folder).seconds * 1000,
    })
    const [ours, bare] = [times.vdisk as number, times.node as number]
    report({
      what: 'vdisk info, start of Node included',
      ours: `${ours.toFixed(0)} ms`,
      peer: `bare node ${bare.toFixed(0)} ms`,
      ratio: `${(ours / bare).toFixed(2)}x`,
      goal: '< 150 ms',
      reached: ours < 150,
    })
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/** Memory does not grow with the disk: 64 TiB, all but empty, mapped and converted. */
export async function large(): Promise<void> {
  const folder = benchFolder()
  try {
    for (const [format, option] of [
      ['qcow2', 'cluster_size=64K'],
      ['vhdx', 'block_size=1M'],
    ] as const) {
      const file = `huge.${format}`
      execFileSync(
        vdisk[0] as string,
        [vdisk[1] as string, 'create', file, '--format', format, '--size', '64T', '-o', option],
        { cwd: folder },
      )
      {
        await using disk = await openDisk(path.join(folder, file), { writable: true })
        for (let i = 0; i < 64; i++) await disk.write(i * 2 ** 40 + 12345, Buffer.alloc(100_000, i + 1))
      }
      const mapped = timed([...vdisk, 'map', file], folder)
      reportMemory(`map a ${format} of 64 TiB (${mapped.seconds.toFixed(1)} s)`, mapped.rss, 150)
      const converted = timed(
        [...vdisk, 'convert', '-q', file, `out.${format}`, '--format', format, '-o', option],
        folder,
      )
      reportMemory(`convert a ${format} of 64 TiB (${converted.seconds.toFixed(1)} s)`, converted.rss, 150)
    }
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

function reportMemory(what: string, rss: number, limit: number): void {
  report({ what, ours: `${rss.toFixed(0)} MiB`, peer: '-', ratio: '-', goal: `< ${limit} MiB`, reached: rss < limit })
}
