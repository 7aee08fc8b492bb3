import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe } from 'vitest'

/** Which Debian package brings a program that we compare ourselves with. */
const PACKAGES = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  'qemu-storage-daemon': 'qemu-system-common',
  nbdinfo: 'libnbd-bin',
  qcowmount: 'libqcow-utils',
  fusermount: 'fuse',
  vhdimount: 'libvhdi-utils',
  vmdkmount: 'libvmdk-utils',
  umount: 'mount',
  xz: 'xz-utils',
  gzip: 'gzip',
  bzip2: 'bzip2',
  zstd: 'zstd',
  pzstd: 'zstd',
  dd: 'coreutils',
  tar: 'tar',
  cp: 'coreutils',
  fdisk: 'fdisk',
  sfdisk: 'fdisk',
  sgdisk: 'gdisk',
  blkid: 'util-linux',
  mkswap: 'util-linux',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  'mkfs.vfat': 'dosfstools',
  'mkfs.ntfs': 'ntfs-3g',
  'mkfs.exfat': 'exfatprogs',
  'mkfs.f2fs': 'f2fs-tools',
  mksquashfs: 'squashfs-tools',
  xorrisofs: 'xorriso',
  cryptsetup: 'cryptsetup-bin',
} as const

export type PeerName = keyof typeof PACKAGES

/** Where a program is, or a sentence that says how to get it. */
export type Peer = { readonly path: string } | { readonly missing: string }

export function peer(name: PeerName): Peer {
  // Ordinary users do not have the folder of mkfs and its like on their path, but may run them on files.
  for (const folder of [...(process.env.PATH ?? '').split(path.delimiter), '/usr/sbin']) {
    const file = path.join(folder, name)
    if (folder !== '' && fs.existsSync(file)) return { path: file }
  }
  return { missing: `${name} is not installed: apt-get install ${PACKAGES[name]}` }
}

/** A group of tests that needs other programs; without them it is skipped, and its name says why. */
export function describeWithPeers(names: readonly PeerName[], title: string, body: () => void): void {
  const missing = names.flatMap((name) => {
    const found = peer(name)
    return 'missing' in found ? [found.missing] : []
  })
  if (missing.length === 0) describe(title, body)
  else describe.skip(`${title} (${missing.join('; ')})`, body)
}

export interface Outcome {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/**
 * Runs a program to its end.
 *
 * @param options.in folder to run in
 * @param options.accept exit statuses that are no failure, default 0 alone
 */
export function runPeer(
  name: PeerName,
  args: readonly string[],
  options: { in?: string; accept?: readonly number[] | 'any'; input?: string } = {},
): Outcome {
  const found = peer(name)
  if ('missing' in found) throw new Error(found.missing)
  const result = spawnSync(found.path, args, {
    cwd: options.in,
    input: options.input ?? '',
    encoding: 'utf8',
    timeout: 120_000,
    maxBuffer: 64 << 20,
  })
  if (result.error) throw result.error
  const outcome = { status: result.status ?? -1, stdout: result.stdout, stderr: result.stderr }
  if (options.accept !== 'any' && !(options.accept ?? [0]).includes(outcome.status)) {
    throw new Error(`${name} ${args.join(' ')}\nended with ${outcome.status}\n${outcome.stdout}${outcome.stderr}`)
  }
  return outcome
}
