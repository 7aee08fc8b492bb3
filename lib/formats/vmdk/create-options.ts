import type { CreateOption } from '../../contracts/driver.ts'

/** How the parts of a new disk are stored, by the name of its type. */
export const SUBFORMATS = {
  monolithicSparse: { type: 'SPARSE', isSplit: false, grain: '64K' },
  monolithicFlat: { type: 'FLAT', isSplit: false, grain: undefined },
  twoGbMaxExtentSparse: { type: 'SPARSE', isSplit: true, grain: '64K' },
  twoGbMaxExtentFlat: { type: 'FLAT', isSplit: true, grain: undefined },
  streamOptimized: { type: 'SPARSE', isSplit: false, grain: '64K' },
  vmfs: { type: 'VMFS', isSplit: false, grain: undefined },
  vmfsSparse: { type: 'VMFSSPARSE', isSplit: false, grain: '512' },
} as const

export type Subformat = keyof typeof SUBFORMATS

/** Names and values as `qemu-img create -o` has them, where it has them. */
export const createOptions: readonly CreateOption[] = [
  {
    name: 'subformat',
    values: Object.keys(SUBFORMATS),
    initial: 'monolithicSparse',
    help: 'monolithicSparse: one file; Flat: a file with the bytes of the disk beside a small descriptor; twoGbMaxExtent...: pieces of 2 GiB; streamOptimized: packed, filled once by convert; vmfs: flat, as ESXi has it; vmfsSparse: the delta that ESXi lays over a vmfs disk',
  },
  {
    name: 'adapter_type',
    values: ['ide', 'lsilogic', 'buslogic', 'legacyESX'],
    initial: undefined,
    help: 'the controller that the disk is meant for; default ide, for a child of a VMDK what that has',
  },
  { name: 'hwversion', values: 'text', initial: undefined, help: 'version of the virtual hardware; default 4' },
  { name: 'compat6', values: 'switch', initial: 'off', help: 'the same as hwversion=6' },
  { name: 'toolsversion', values: 'text', initial: '2147483647', help: "version of the guest's VMware tools" },
  {
    name: 'zeroed_grain',
    values: 'switch',
    initial: 'off',
    help: 'of a sparse disk: grains can be marked as zero; header version 2',
  },
  {
    name: 'grain_size',
    values: 'size',
    initial: undefined,
    help: 'of a sparse disk: unit of allocation, 4K to 1M; default 64K. Of vmfsSparse 512 to 1M; default 512',
  },
  {
    name: 'extent_size',
    values: 'size',
    initial: '2047M',
    help: 'of twoGbMaxExtent...: bytes of the disk in one piece',
  },
  {
    name: 'preallocation',
    values: ['off', 'falloc', 'full'],
    initial: 'off',
    help: 'of a flat disk: sparse files; room is reserved; zeros are written',
  },
]
