import type { Extent } from '../../../contracts/extent.ts'
import type { Packer, Reservation } from '../../../contracts/layer.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import { spotIn } from '../damage.ts'
import type { ExtentOpening, WritableExtentFile } from '../extent-file.ts'
import { packGrain } from './grain-codec.ts'
import { StreamExtent } from './stream-extent.ts'
import type { StreamFile } from './stream-file.ts'
import { StreamWriter } from './stream-writer.ts'

/**
 * A stream that is being written: whole grains, packed, each once and in order. Nothing else can be written to it, and
 * once it holds anything it is not opened for writing again.
 */
export class WritableStreamExtent extends StreamExtent implements WritableExtentFile {
  private readonly writer: StreamWriter

  /** @param file that holds no grain */
  constructor(opening: ExtentOpening, file: StreamFile) {
    super(opening, file)
    this.writer = new StreamWriter(file.store, file.header, file.grains)
  }

  get packer(): Packer {
    return {
      algorithm: 'zlib',
      inOrder: true,
      pack: packGrain,
      store: (offset, packed) => this.writer.put((offset - this.start) / this.granularity, packed),
    }
  }

  override *map(offset: number, length: number): Io<Extent> {
    if (this.writer.isBehind) yield* this.writer.write()
    return yield* super.map(offset, length)
  }

  // biome-ignore lint/correctness/useYield: it has nothing to wait for
  *reserve(): Io<Reservation> {
    throw onceOnly(this.store.name)
  }

  /** What was never written reads as it should already. */
  *erase(offset: number, length: number): Io<number> {
    const extent = yield* this.map(offset, length)
    return extent.kind === 'zero' ? extent.length : 0
  }

  *flush(): Io<void> {
    yield* this.writer.end()
    yield* settle(this.store.flush())
  }

  *end(): Io<void> {
    yield* this.flush()
  }

  /** It grows. */
  protected override get fileEnd(): number {
    return this.writer.position
  }
}

/** The error of a write to a stream. */
export function onceOnly(file: string): VdiskError {
  return new VdiskError('READ_ONLY', {
    message: `Cannot write ${file}: streamOptimized disks are written once, as a whole`,
    where: spotIn(file, { structure: 'header', at: 0, section: 'Stream-Optimized Compressed Sparse Extents' }),
    advice: 'Make a disk of it that can be written: vdisk convert IMAGE NEW.vmdk --format vmdk',
  })
}
