import { isVdiskError } from '../errors.ts'
import { type Io, promised } from '../io/io.ts'
import { loseRecord } from '../tracking/moving.ts'
import { type FileOptions, filesOf } from './images.ts'
import { openSidecar, sidecarOf } from './tracked-disk.ts'

/**
 * A verb has changed an image past its disk: what was known of its changes ends, and whoever asks is told why.
 *
 * The record would not be believed anyway, since the file is another than it knows; so one that cannot be written may stay.
 *
 * @param reason ends "all of the disk counts as changed:"
 */
export async function endTracking(file: string, reason: string, options: FileOptions): Promise<void> {
  try {
    await promised(lose(file, reason, options))
  } catch (error) {
    if (!isVdiskError(error)) throw error
  }
}

function* lose(file: string, reason: string, options: FileOptions): Io<void> {
  const files = filesOf(options)
  const sidecar = sidecarOf(file, files)
  if (!files.look(sidecar)) return
  const store = openSidecar(files, sidecar, 'write', options)
  try {
    yield* loseRecord(store, reason)
  } finally {
    store.close()
  }
}
