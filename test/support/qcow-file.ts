import zlib from 'node:zlib'

/** What a cluster of a qcow image is made of. */
export type QcowCluster = { readonly plain: Uint8Array } | { readonly packed: Uint8Array } | undefined

export const CLUSTER_BITS = 12
export const L2_BITS = 9
export const CLUSTER = 2 ** CLUSTER_BITS
/** Where the L1 table begins, and the first L2 table. */
export const L1_AT = 48
export const L2_AT = 4096

/** A qcow image of version 1, put together by its description: header, L1, one L2 table, clusters; all big-endian. */
export function qcowBytes(clusters: readonly QcowCluster[], size = clusters.length * CLUSTER): Buffer {
  const parts: Uint8Array[] = []
  let end = L2_AT + 2 ** L2_BITS * 8
  const entries = clusters.map((cluster) => {
    if (!cluster) return 0n
    if ('plain' in cluster) {
      const padding = (CLUSTER - (end % CLUSTER)) % CLUSTER
      parts.push(new Uint8Array(padding), cluster.plain)
      const at = end + padding
      end = at + cluster.plain.length
      return BigInt(at)
    }
    // Without its last block a stream counts as whole: QEMU's have one all the same.
    const stored = zlib.deflateRawSync(cluster.packed, { windowBits: 12 })
    parts.push(stored)
    const at = end
    end += stored.length
    return (1n << 63n) | (BigInt(stored.length) << BigInt(63 - CLUSTER_BITS)) | BigInt(at)
  })
  const head = Buffer.alloc(L2_AT + 2 ** L2_BITS * 8)
  head.writeUInt32BE(0x514649fb, 0)
  head.writeUInt32BE(1, 4)
  head.writeBigUInt64BE(BigInt(size), 24)
  head.writeUInt8(CLUSTER_BITS, 32)
  head.writeUInt8(L2_BITS, 33)
  head.writeBigUInt64BE(BigInt(L1_AT), 40)
  head.writeBigUInt64BE(BigInt(L2_AT), L1_AT)
  for (const [i, entry] of entries.entries()) head.writeBigUInt64BE(entry, L2_AT + i * 8)
  return Buffer.concat([head, ...parts])
}
