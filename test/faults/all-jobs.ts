import { layers, merges, relinks, resizes } from './jobs-of-chains.ts'
import { conversions, creations } from './jobs-of-files.ts'
import { bitmaps, histories, looks, snapshots } from './jobs-on-a-disk.ts'
import type { ScriptedJob } from './scripted-job.ts'

/** Every scripted job. */
export const JOBS: readonly ScriptedJob[] = [
  ...creations,
  ...conversions,
  ...merges,
  ...relinks,
  ...resizes,
  ...layers,
  ...snapshots,
  ...bitmaps,
  ...looks,
  ...histories,
]
