import { createLayer, finish, mergeImage, relink, resizeDisk, revertToSnapshot } from '../../lib/index.ts'
import type { MergeOptions } from '../../lib/jobs/merge-plan.ts'
import { at, formatOf, type JobFiles, make, type ScriptedJob, SHAPE, withDisk } from './scripted-job.ts'

/** A chain, lowest first: each covers a part of what is below. */
async function makeChain(files: JobFiles, names: readonly string[], size?: number): Promise<void> {
  for (const [i, name] of names.entries()) {
    const parent = names[i - 1]
    const data = parent === undefined ? [0, 0.3, 0.6, 0.96] : [0.1 * i, 0.3, 0.6 + 0.05 * i]
    await make(files, name, 30 + i, { parent, data, size: size ?? largestOf(names) })
    if (parent !== undefined) {
      await withDisk(files, name, (disk) => disk.erase(Math.floor(disk.size * 0.96), 3000), { writable: true })
    }
  }
}

/** Bytes that all formats of a chain can have. */
const largestOf = (names: readonly string[]): number =>
  Math.max(...names.map((name) => SHAPE[formatOf(name)]?.size as number))

interface Merging extends Omit<MergeOptions, 'into'> {
  /** the chain, lowest first */
  readonly chain: readonly string[]
  /** which of it is merged, default the last */
  readonly merged?: string
  readonly into?: string
  /** makes the merged image another size before: bytes more, or less */
  readonly resizeBy?: number
}

function merging(
  name: string,
  { chain, resizeBy = 0, into, merged = chain.at(-1) as string, ...options }: Merging,
): ScriptedJob {
  return {
    name: `merge: ${name}`,
    async scene(files) {
      const upTo = chain.indexOf(merged) + 1
      await makeChain(files, chain.slice(0, upTo))
      if (resizeBy !== 0) {
        const size = largestOf(chain) + resizeBy
        await resizeDisk(at(merged), size, { files, format: formatOf(merged), shrink: true })
      }
      for (const [i, above] of chain.slice(upTo).entries()) {
        await make(files, above, 60 + i, { parent: chain[upTo + i - 1], data: [0.4] })
      }
    },
    async run({ files }) {
      const how = { files, format: formatOf(merged), ...options }
      await finish(mergeImage(at(merged), into === undefined ? how : { ...how, into: at(into) }))
    },
    // What the others hold is covered by these until it is theirs.
    watched: chain.slice(chain.indexOf(merged)),
  }
}

export const merges: readonly ScriptedJob[] = [
  merging('qcow2 into qcow2', { chain: ['base.qcow2', 'top.qcow2'] }),
  merging('VHDX into VHDX', { chain: ['base.vhdx', 'top.vhdx'] }),
  merging('qcow2 into raw', { chain: ['base.raw', 'top.qcow2'] }),
  merging('qcow2 into VHDX', { chain: ['base.vhdx', 'top.qcow2'] }),
  merging('VHDX into qcow2', { chain: ['base.qcow2', 'top.vhdx'] }),
  merging('VDI, whose links are in records, into raw', { chain: ['base.raw', 'top.vdi'], delete: true }),
  merging('VDI from the middle', { chain: ['base.vdi', 'a.vdi', 'top.vdi'], merged: 'a.vdi' }),
  merging('VHD into VHD', { chain: ['base.vhd', 'top.vhd'] }),
  merging('VMDK into VMDK, and the file removed', { chain: ['base.vmdk', 'top.vmdk'], delete: true }),
  merging('VMDK from the middle', { chain: ['base.vmdk', 'a.vmdk', 'b.vmdk', 'top.vmdk'], merged: 'a.vmdk' }),
  merging('a larger disk', { chain: ['base.qcow2', 'top.qcow2'], resizeBy: 40 << 10 }),
  merging('a smaller disk', { chain: ['base.qcow2', 'top.qcow2'], resizeBy: -(40 << 10) }),
  merging('a smaller disk into raw', { chain: ['base.raw', 'top.qcow2'], resizeBy: -(40 << 10) }),
  merging('a larger VHDX', { chain: ['base.vhdx', 'top.vhdx'], resizeBy: 1 << 20 }),
  merging('and the file removed', { chain: ['base.qcow2', 'top.qcow2'], delete: true }),
  merging('compared before', { chain: ['base.vhdx', 'top.vhdx'], compare: true }),
  merging('over two layers', {
    chain: ['base.qcow2', 'a.qcow2', 'b.qcow2', 'top.qcow2'],
    merged: 'b.qcow2',
    into: 'base.qcow2',
  }),
  merging('from the middle, over formats', {
    chain: ['base.raw', 'a.qcow2', 'top.vhdx'],
    merged: 'a.qcow2',
    delete: true,
  }),
]

function relinking(format: 'qcow2' | 'vhdx' | 'vdi' | 'vhd' | 'vmdk'): ScriptedJob {
  const [base, moved, child] = [`base.${format}`, `moved.${format}`, `child.${format}`]
  return {
    name: `relink: ${format}`,
    async scene(files) {
      await makeChain(files, [base, child])
      files.duplicate(at(base), at(moved))
    },
    async run({ files }) {
      await relink(at(child), at(moved), { files, format, parentFormat: format })
    },
    watched: [child, moved],
  }
}

/** Those above know the image by the time of its file. */
function relinkingBelow(format: 'vdi' | 'vhd' | 'vmdk'): ScriptedJob {
  const [base, child, above, top] = [`base.${format}`, `child.${format}`, `above.${format}`, `top.${format}`]
  return {
    name: `relink under others: ${format}`,
    scene: (files) => makeChain(files, [base, child, above, top]),
    async run({ files }) {
      await relink(at(child), at(base), { files, format, parentFormat: format })
    },
    watched: [child, above, top],
  }
}

export const relinks: readonly ScriptedJob[] = [
  ...(['qcow2', 'vhdx', 'vdi', 'vhd', 'vmdk'] as const).map(relinking),
  ...(['vdi', 'vhd', 'vmdk'] as const).map(relinkingBelow),
]

function resizing(image: string, by: number, base?: string): ScriptedJob {
  const size = Math.max(largestOf([image]), base === undefined ? 0 : largestOf([base])) + by
  return {
    name: `resize: ${image}${base === undefined ? '' : ` over ${base}`}, ${by > 0 ? 'larger' : 'smaller'}`,
    scene: (files) => makeChain(files, base === undefined ? [image] : [base, image]),
    async run({ files }) {
      await resizeDisk(at(image), size, { files, format: formatOf(image), shrink: true })
    },
    watched: [image],
  }
}

export const resizes: readonly ScriptedJob[] = [
  ...['raw', 'qcow2', 'vhdx', 'vdi', 'vhd', 'vmdk', 'parallels'].flatMap((format) => {
    const image = `disk.${format}`
    const unit = format === 'vhdx' ? 512 << 10 : 100 << 10
    return [resizing(image, unit), resizing(image, -unit)]
  }),
  // More tables than there is room for beside the others.
  resizing('disk.qcow2', 20 << 20),
  resizing('disk.vhdx', 12 << 20),
  resizing('disk.qcow2', 100 << 10, 'base.raw'),
  resizing('disk.qcow2', -(100 << 10), 'base.qcow2'),
  resizing('disk.vhdx', -(512 << 10), 'base.vhdx'),
]

function layering(base: string, format: string): ScriptedJob {
  const overlay = `layer.${format}`
  return {
    name: `snapshot: ${overlay} over ${base}`,
    scene: (files) => make(files, base, 41),
    run: ({ files }) =>
      createLayer(at(base), at(overlay), {
        files,
        format,
        parentFormat: formatOf(base),
        options: SHAPE[format]?.options ?? {},
      }),
    watched: [base, overlay],
  }
}

function emptying(chain: readonly [string, string]): ScriptedJob {
  return {
    name: `snapshot: back to the layer below ${chain[1]}`,
    scene: (files) => makeChain(files, chain),
    run: ({ files }) => revertToSnapshot(at(chain[1]), chain[0], { files, format: formatOf(chain[1]) }),
    watched: chain,
  }
}

export const layers: readonly ScriptedJob[] = [
  layering('base.raw', 'qcow2'),
  layering('base.qcow2', 'qcow2'),
  layering('base.vhdx', 'vhdx'),
  layering('base.raw', 'vdi'),
  layering('base.vhd', 'vhd'),
  layering('base.vmdk', 'vmdk'),
  emptying(['base.raw', 'top.qcow2']),
  emptying(['base.vhdx', 'top.vhdx']),
  emptying(['base.vmdk', 'top.vmdk']),
]
