import { convertDisk, createDisk, finish } from '../../lib/index.ts'
import { at, formatOf, type Making, make, type ScriptedJob, SHAPE, withDisk } from './scripted-job.ts'

/** Making an image, of every kind that is written in another way. */
function creating(name: string, image: string, making: Making & { readonly base?: string } = {}): ScriptedJob {
  const { base, ...options } = making
  const { size, options: shape } = SHAPE[formatOf(image)] as (typeof SHAPE)[string]
  const below = base === undefined ? { size } : { parent: at(base), parentFormat: formatOf(base) }
  return {
    name: `create: ${name}`,
    async scene(files) {
      await make(files, 'other.raw', 3)
      if (base !== undefined) await make(files, base, 11)
      if (options.replace) await make(files, image, 12)
    },
    async run({ files }) {
      const format = formatOf(image)
      const disk = await createDisk(at(image), {
        files,
        format,
        ...below,
        ...options,
        options: options.options ?? shape,
      })
      await disk.close()
    },
    watched: [image, ...(base === undefined ? [] : [base])],
  }
}

const K1 = { cluster_size: '1K' }

export const creations: readonly ScriptedJob[] = [
  creating('raw', 'new.raw'),
  creating('raw, all room written', 'new.raw', { options: { preallocation: 'full' } }),
  creating('raw, all room reserved', 'new.raw', { options: { preallocation: 'falloc' } }),
  creating('raw in place of another', 'new.raw', { replace: true }),
  creating('qcow2', 'new.qcow2'),
  creating('qcow2, version 2', 'new.qcow2', { options: { ...K1, compat: '0.10' } }),
  creating('qcow2, extended L2', 'new.qcow2', { options: { cluster_size: '16K', extended_l2: 'on' } }),
  creating('qcow2, lazy counts', 'new.qcow2', { options: { ...K1, lazy_refcounts: 'on' } }),
  creating('qcow2, tables made before', 'new.qcow2', { options: { ...K1, preallocation: 'metadata' } }),
  creating('qcow2, all room written', 'new.qcow2', { options: { ...K1, preallocation: 'full' } }),
  creating('qcow2 with a data file', 'new.qcow2', { options: { ...K1, data_file: 'new.data' } }),
  creating('qcow2 with a raw data file', 'new.qcow2', {
    options: { ...K1, data_file: 'new.data', data_file_raw: 'on' },
  }),
  creating('qcow2 over raw', 'new.qcow2', { base: 'base.raw' }),
  creating('qcow2 in place of another', 'new.qcow2', { replace: true }),
  creating('VHDX', 'new.vhdx'),
  creating('VHDX, fixed', 'new.vhdx', { options: { block_size: '1M', subformat: 'fixed' } }),
  creating('VHDX over qcow2', 'new.vhdx', { base: 'base.qcow2' }),
  creating('VHDX in place of another', 'new.vhdx', { replace: true }),
  creating('VDI', 'new.vdi'),
  creating('VDI over raw', 'new.vdi', { base: 'base.raw' }),
  creating('VHD', 'new.vhd'),
  creating('VHD, fixed', 'new.vhd', { options: { subformat: 'fixed' } }),
  creating('VHD over VHD', 'new.vhd', { base: 'base.vhd' }),
  creating('VMDK', 'new.vmdk'),
  creating('VMDK over VMDK', 'new.vmdk', { base: 'base.vmdk' }),
  creating('VMDK in pieces', 'new.vmdk', {
    options: { subformat: 'twoGbMaxExtentSparse', grain_size: '4K', extent_size: '64K' },
  }),
  creating('VMDK, flat', 'new.vmdk', { options: { subformat: 'monolithicFlat' } }),
  creating('Parallels', 'new.parallels'),
]

/** Converting one image into another, which may be there already. */
function converting(
  name: string,
  from: string,
  to: string,
  making: Making & { readonly compress?: string } = {},
): ScriptedJob {
  const { compress, parent, ...options } = making
  const below = parent === undefined ? {} : { parent: at(parent), parentFormat: formatOf(parent) }
  return {
    name: `convert: ${name}`,
    async scene(files) {
      await make(files, from, 21, { data: [0.1, 0.3, 0.31, 0.8], length: 9000 })
      if (parent !== undefined) await make(files, parent, 22, { size: SHAPE[formatOf(from)]?.size })
      if (options.replace) await make(files, to, 23)
    },
    async run({ files }) {
      const format = formatOf(to)
      const shape = SHAPE[format]?.options
      await withDisk(files, from, (disk) =>
        finish(convertDisk(disk.chain, at(to), { files, format, options: shape, compress, ...options, ...below })),
      )
    },
    watched: [from, to, ...(parent === undefined ? [] : [parent])],
  }
}

export const conversions: readonly ScriptedJob[] = [
  converting('raw to qcow2', 'a.raw', 'b.qcow2'),
  converting('raw to VHDX', 'a.raw', 'b.vhdx'),
  converting('raw to raw', 'a.raw', 'b.raw'),
  converting('qcow2 to raw', 'a.qcow2', 'b.raw'),
  converting('qcow2 to VHDX', 'a.qcow2', 'b.vhdx'),
  converting('qcow2 to qcow2', 'a.qcow2', 'b.qcow2'),
  converting('VHDX to raw', 'a.vhdx', 'b.raw'),
  converting('VHDX to qcow2', 'a.vhdx', 'b.qcow2', { options: { cluster_size: '64K' } }),
  converting('VHDX to VHDX', 'a.vhdx', 'b.vhdx'),
  converting('raw to qcow2, compressed by zlib', 'a.raw', 'b.qcow2', { compress: 'zlib' }),
  converting('qcow2 to qcow2, compressed by zstd', 'a.qcow2', 'b.qcow2', { compress: 'zstd' }),
  converting('raw to VDI', 'a.raw', 'b.vdi'),
  converting('VDI to VHD', 'a.vdi', 'b.vhd'),
  converting('VHD to VMDK', 'a.vhd', 'b.vmdk'),
  converting('raw to VMDK, compressed', 'a.raw', 'b.vmdk', { options: { subformat: 'streamOptimized' } }),
  converting('VMDK to Parallels', 'a.vmdk', 'b.parallels'),
  converting('Parallels to raw', 'a.parallels', 'b.raw'),
  converting('in place of another', 'a.qcow2', 'b.raw', { replace: true }),
  converting('what differs from a parent', 'a.raw', 'b.qcow2', { parent: 'base.qcow2' }),
]
