import { CHANGE_MAP, changeMapScene } from './change-map-scene.ts'
import { GEOMETRIES } from './geometries.ts'
import type { Kind } from './job-operations.ts'
import { jobScene } from './job-scene.ts'
import { layerScene } from './layer-scene.ts'
import type { Scene } from './scene.ts'
import { TRACKED, trackingScene } from './tracking-scene.ts'

const SMALL = {
  qcow2: { cluster_size: '512' },
  vhdx: { block_size: '1M' },
  vdi: { block_size: '4K' },
  vhd: { block_size: '4K' },
  vmdk: { grain_size: '4K' },
}

/** Chains that jobs work on: what the base is, and what is laid over it. */
const JOBS: readonly (Kind & { readonly name: string })[] = [
  { name: 'qcow2 jobs', base: 'qcow2', layer: 'qcow2', options: SMALL, size: 64 << 10, granule: 4096 },
  { name: 'vhdx jobs', base: 'vhdx', layer: 'vhdx', options: SMALL, size: 3 << 20, granule: 1 << 20 },
  // Their links need the linkage record.
  { name: 'vdi jobs', base: 'vdi', layer: 'vdi', options: SMALL, size: 64 << 10, granule: 4096 },
  { name: 'raw below vdi jobs', base: 'raw', layer: 'vdi', options: SMALL, size: 64 << 10, granule: 4096 },
  { name: 'vhd jobs', base: 'vhd', layer: 'vhd', options: SMALL, size: 64 << 10, granule: 4096 },
  { name: 'vmdk jobs', base: 'vmdk', layer: 'vmdk', options: SMALL, size: 64 << 10, granule: 4096 },
  { name: 'vdi below vmdk jobs', base: 'vdi', layer: 'vmdk', options: SMALL, size: 64 << 10, granule: 4096 },
  { name: 'raw jobs', base: 'raw', layer: 'qcow2', options: SMALL, size: 64 << 10, granule: 4096 },
]

/** Names of everything that crashes are tried on; the first word is the format. */
export function sceneNames(): string[] {
  return [...[...GEOMETRIES, ...JOBS, ...TRACKED].map(({ name }) => name), CHANGE_MAP]
}

/** The scenes whose names are wanted. */
export async function scenesOf(wanted: (name: string) => boolean): Promise<Scene[]> {
  const scenes: Scene[] = []
  for (const geometry of GEOMETRIES) if (wanted(geometry.name)) scenes.push(await layerScene(geometry))
  for (const kind of JOBS) if (wanted(kind.name)) scenes.push(await jobScene(kind.name, kind))
  for (const kind of TRACKED) if (wanted(kind.name)) scenes.push(await trackingScene(kind))
  if (wanted(CHANGE_MAP)) scenes.push(await changeMapScene())
  return scenes
}
