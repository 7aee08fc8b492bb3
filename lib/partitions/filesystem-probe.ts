import type { Device } from '../contracts/device.ts'
import type { Io } from '../io/io.ts'
import { probeLuks, probeLvm, probeRaid, probeZfs } from './container-signatures.ts'
import { probeExfat, probeFat } from './fat-filesystems.ts'
import type { Filesystem } from './filesystem.ts'
import { probeBtrfs, probeExt, probeF2fs, probeSquashfs, probeSwap, probeXfs } from './linux-filesystems.ts'
import { probeBitlocker, probeNtfs, probeRefs } from './microsoft-filesystems.ts'
import { probeApfs, probeHfsPlus, probeOptical } from './other-filesystems.ts'
import { Pieces } from './pieces.ts'

type Probe = (pieces: Pieces) => Io<Filesystem | undefined>

/** What has a boot sector where an MBR would be. FAT says least of itself, so it is asked last. */
const BOOT_SECTORS: readonly Probe[] = [probeBitlocker, probeNtfs, probeExfat, probeRefs, probeFat]

/**
 * Containers come first: a member of a mirror may look like the file system within. Discs come behind what could have
 * been made over them without touching their descriptors at 32 KiB.
 */
const ALL: readonly Probe[] = [
  probeRaid,
  probeLvm,
  probeLuks,
  ...BOOT_SECTORS,
  probeXfs,
  probeExt,
  probeBtrfs,
  probeF2fs,
  probeSquashfs,
  probeApfs,
  probeHfsPlus,
  probeSwap,
  probeZfs,
  probeOptical,
]

/**
 * Says what file system, or what else that is no plain data, a partition or a whole disk holds.
 *
 * Reads a few blocks, and believes a magic number only where the rest of the structure makes sense.
 *
 * @returns undefined if it is nothing that is known here
 * @throws VdiskError what the device throws where it cannot be read
 */
export function* probeFilesystem(device: Device): Io<Filesystem | undefined> {
  return yield* firstOf(ALL, device)
}

/** As `probeFilesystem`, for those alone that begin with a boot sector. */
export function* probeBootSector(device: Device): Io<Filesystem | undefined> {
  return yield* firstOf(BOOT_SECTORS, device)
}

function* firstOf(probes: readonly Probe[], device: Device): Io<Filesystem | undefined> {
  const pieces = new Pieces(device)
  for (const probe of probes) {
    const found = yield* probe(pieces)
    if (found) return found
  }
  return undefined
}
