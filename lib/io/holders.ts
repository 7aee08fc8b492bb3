import fs from 'node:fs'

/** QEMU's byte for "I write"; see lock.ts. */
const WRITES = 101

/**
 * Whether some program on this machine holds an image open for writing, as far as the kernel's list of locks tells.
 *
 * For those who only look: it takes no lock and needs no native call. Other mounts and machines are not seen.
 *
 * @param fileId device and inode, as `fileId` of a store has them
 * @returns undefined where the system has no such list
 */
export function isHeldForWriting(fileId: string): boolean | undefined {
  let list: string
  try {
    list = fs.readFileSync('/proc/locks', 'latin1')
  } catch {
    return undefined
  }
  const [device, inode] = fileId.split(':').map(BigInt) as [bigint, bigint]
  const place = `${hex(majorOf(device))}:${hex(minorOf(device))}:${inode}`
  return list.split('\n').some((line) => {
    // 1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 101
    const [, , , , , where, first, last] = line.split(/\s+/)
    return where === place && Number(first) <= WRITES && (last === 'EOF' || Number(last) >= WRITES)
  })
}

/** Linux packs a device number into 64 bits in this order. [makedev(3)] */
function majorOf(device: bigint): bigint {
  return ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn)
}

function minorOf(device: bigint): bigint {
  return (device & 0xffn) | ((device >> 12n) & ~0xffn)
}

function hex(number: bigint): string {
  return number.toString(16).padStart(2, '0')
}
