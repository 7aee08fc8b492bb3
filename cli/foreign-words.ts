/** Words by which other tools call what vdisk does: whoever types them is told ours. */

/** qemu-img, mount, libguestfs, Hyper-V and common sense. */
export const FOREIGN_VERBS: Readonly<Record<string, string>> = {
  amend: 'convert',
  attach: 'mount',
  clone: 'convert',
  commit: 'merge',
  copy: 'convert',
  cp: 'convert',
  dd: 'convert',
  detach: 'unmount',
  diff: 'compare',
  dismount: 'unmount',
  flatten: 'convert',
  fsck: 'check',
  grow: 'resize',
  list: 'mounts',
  ls: 'mounts',
  new: 'create',
  rebase: 'relink',
  repair: 'check --repair',
  show: 'info',
  shrink: 'resize',
  stat: 'info',
  test: 'check',
  umount: 'unmount',
  verify: 'check',
}

/** Options of qemu-img, with ours; those that depend on the verb first. */
const FOREIGN_OPTIONS: Readonly<Record<string, string>> = {
  'compare -p': '--progress auto',
  'convert -B': '--parent FILE',
  'convert -F': '--parent-format FORMAT',
  'convert -b': '--parent FILE',
  'convert -c': '--compress zlib',
  'create -F': '--parent-format FORMAT',
  'create -b': '--parent FILE',
  'merge -b': '--into FILE',
  'merge -d': '--delete (without it the merged file stays)',
  'relink -F': '--parent-format FORMAT',
  'relink -b': '--parent FILE',
  'relink -u': '--accept-modified',
  '--backing-chain': '--chain',
  '--dry-run': '--plan',
  '--force-share': '--locking off',
  '--output': '--json',
  '--readonly': '--read-only',
  '-O': '--format FORMAT',
  '-U': '--locking off',
  '-p': '--progress auto',
  '-r': '--read-only',
  '-s': '--size SIZE',
  '-v': '--version',
}

/** What an option of another tool is called here, if this verb has it. */
export function foreignOption(verb: string, word: string, known: readonly string[]): string | undefined {
  const ours = FOREIGN_OPTIONS[`${verb} ${word}`] ?? FOREIGN_OPTIONS[word]
  return ours !== undefined && known.includes(ours.replace(/[^a-z-].*$/, '')) ? ours : undefined
}
