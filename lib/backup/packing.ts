import type { Chain } from '../chain/chain.ts'
import type { Packer, WritableLayer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import { type Io, promised, settle } from '../io/io.ts'
import { allEnded, packGranule } from '../jobs/packed-granule.ts'
import type { BackupFormat } from './catalogue.ts'
import { GRANULE } from './granules.ts'

/** How a layer is packed. */
export const COMPRESSIONS = ['zlib', 'zstd'] as const
export type BackupCompression = (typeof COMPRESSIONS)[number]

/** What makes a new layer one that can be packed. @throws VdiskError UNSUPPORTED */
export function packedOptions(
  compress: BackupCompression | undefined,
  format: BackupFormat,
  folder: string,
): Readonly<Record<string, string>> {
  if (compress === undefined) return {}
  if (format === 'qcow2') return { compression_type: compress }
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot compress backups in ${folder}: they are ${format}, which has no compression`,
    where: { file: folder },
    advice: 'Leave --compress out, or begin backups in another folder as qcow2: --format qcow2',
  })
}

/** What packs granules of a layer that was made with `packedOptions`. @throws VdiskError UNSUPPORTED with other options */
export function packerOf(target: Chain, compress: BackupCompression): Packer {
  const { packer } = target.layers.at(-1) as WritableLayer
  if (packer?.algorithm === compress && target.granularity <= GRANULE) return packer
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot compress ${target.name} with ${compress}: its options do not allow that`,
    where: { file: target.name },
    advice: `Leave out compression_type and a cluster_size above ${GRANULE}, or --compress.`,
  })
}

/**
 * Writes granules packed, cluster by cluster; those that do not shrink as they are.
 *
 * @param offset at the start of a cluster
 * @param bytes whole clusters, or up to the end of the disk; the layer holds none of them yet
 */
export function* writePacked(target: Chain, packer: Packer, offset: number, bytes: Uint8Array): Io<void> {
  yield* settle(packAll(target, packer, offset, bytes))
}

async function packAll(target: Chain, packer: Packer, offset: number, bytes: Uint8Array): Promise<void> {
  const { granularity } = target
  const work: Promise<void>[] = []
  for (let start = 0; start < bytes.length; start += granularity) {
    work.push(packOne(target, packer, offset + start, bytes.subarray(start, start + granularity)))
  }
  await allEnded(work)
}

async function packOne(target: Chain, packer: Packer, offset: number, cluster: Uint8Array): Promise<void> {
  const packed = await packGranule(packer, cluster, target.granularity)
  await promised(packed ? packer.store(offset, packed) : target.write(offset, cluster))
}
