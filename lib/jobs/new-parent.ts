import path from 'node:path'
import type { Chain } from '../chain/chain.ts'
import { sampleContent } from '../chain/content-sample.ts'
import { linkStampOf } from '../chain/linkage.ts'
import type { NewParent, ParentRecord } from '../contracts/identity.ts'
import type { Layer } from '../contracts/layer.ts'
import { VdiskError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import type { Io } from '../io/io.ts'
import { imageFileOf } from './image-file.ts'
import { filesOf, type OpenOptions, openImage } from './images.ts'

/**
 * Describes the parent that a child is to be pointed at: opened, verified, and with everything by which a later
 * visitor will know it again.
 *
 * @param child path of the image that will name it; it need not exist
 */
export function* newParentOf(
  child: string,
  name: string,
  options: OpenOptions & { parentFormat?: string | undefined },
): Io<NewParent> {
  const files = filesOf(options)
  const parent = imageFileOf(name, files)
  const folder = realFolder(child, files)
  const chain = yield* openImage(parent, {
    ...options,
    writable: false,
    format: options.parentFormat,
    parentFormat: undefined,
  })
  try {
    const top = chain.layers.at(-1) as Layer
    const absolutePath = files.realPath(parent)
    const own = files.find(child)
    if (own && chain.layers.some((layer) => layer.store.fileId?.() === own.id)) {
      throw new VdiskError('CHAIN_CYCLE', {
        message: `Cannot make ${parent} the parent of ${child}: it is that file itself, or built upon it`,
        where: { file: child },
        advice: 'Choose another name for the child, or another parent.',
      })
    }
    const relative = path.relative(folder, absolutePath).split(path.sep).join('/')
    return {
      // A name with a colon would read as a protocol.
      path: /^[^/]*:/.test(relative) ? `./${relative}` : relative,
      absolutePath,
      format: top.format,
      identity: top.identity,
      record: yield* recordOfParent(chain),
      details: top.details,
      replaces: undefined,
    }
  } finally {
    yield* chain.close()
  }
}

/** Nanoseconds within which two changes of a file may get the same time: no file system in use is coarser. */
const RACY = 2_000_000_000n

/** What is known of the top of a chain, for a child to remember. */
function* recordOfParent(chain: Chain): Io<ParentRecord> {
  const top = chain.layers.at(-1) as Layer
  const files = [top.store, ...(top.neighbours ?? [])]
  const limit = BigInt(Date.now()) * 1_000_000n - RACY
  // Before the sample is taken: what is written after that differs from one or the other.
  const [stamp, racy] = [linkStampOf(top), files.some((file) => (file.stamp?.().modified ?? 0n) > limit)]
  return { size: top.size, stamp, sample: yield* sampleContent(chain), ...(racy ? { racy } : {}) }
}

/** The folder a file is or will be in, whatever symbolic links lead there. */
function realFolder(file: string, files: Files): string {
  return files.find(file) ? path.dirname(files.realPath(file)) : files.realPath(path.dirname(path.resolve(file)))
}
