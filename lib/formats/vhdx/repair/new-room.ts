import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import { spotIn } from '../damage.ts'
import { MIB } from '../layout.ts'
import type { Mending } from './mending.ts'
import { readPieces } from './pieces.ts'

/** A repair that copies little may make a small file larger than twice its size. */
const FREE_COPIES = 64 * MIB

/**
 * Room for copies, behind everything that any entry names: not even room that seems free is given out, because in a
 * damaged file nobody knows whose it is. What lies between the old end and the new reads as zero.
 */
export class NewRoom {
  private readonly mending: Mending
  private readonly begin: number
  private readonly most: number
  private end: number

  constructor(mending: Mending, begin: number) {
    this.mending = mending
    this.begin = begin
    this.end = begin
    this.most = Math.max(mending.originalEnd, FREE_COPIES)
  }

  /** @throws VdiskError LIMIT_EXCEEDED if copies would make the file more than twice as large: that is no accident */
  *take(length: number): Io<number> {
    const { name } = this.mending
    if (this.end + length - this.begin > this.most) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot repair ${name}: so many blocks share their places that copies of them would make it more than twice as large`,
        where: spotIn(name, { structure: 'BAT', section: '2.5.1' }),
        advice: 'It can be read and converted: vdisk convert IMAGE COPY --format vhdx',
      })
    }
    const at = this.end
    this.end += length
    yield* this.mending.begin('metadata')
    yield* this.mending.growTo(this.end)
    return at
  }

  /**
   * Copies what there is of a range of the file to new room; zeros need not be written there.
   *
   * @param room bytes for it; what is more than `length` reads as zero
   */
  *copy(from: number, length: number, room = length): Io<number> {
    const { store, originalEnd, pace } = this.mending
    const at = yield* this.take(room)
    const there = Math.min(length, originalEnd - from)
    yield* readPieces({ store, at: from, length: there, pace }, function* (bytes, done) {
      if (bytes.some((byte) => byte !== 0)) yield* settle(store.write(at + done, bytes))
    })
    return at
  }
}
