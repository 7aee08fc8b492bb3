import type { Device } from '../contracts/device.ts'
import type { ResolvedExtent } from '../contracts/extent.ts'
import { VdiskError } from '../errors.ts'
import type { Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import type { Partition } from './partition.ts'

/**
 * A partition as a disk of its own: a window of another Device, whose bytes it shares.
 *
 * It holds nothing, so any number of them, and the whole disk beside them, may be used at once. What is refused names
 * the partition, and counts from its beginning.
 */
export class PartitionDevice implements Device {
  readonly name: string
  readonly size: number
  readonly transfer?: NonNullable<Device['transfer']>
  private readonly disk: Device
  private readonly start: number

  /**
   * @param disk what the partition lies on; whoever opened it closes it
   * @throws VdiskError CORRUPT if the partition is damaged, or does not lie on this disk
   */
  constructor(disk: Device, partition: Partition) {
    this.name = `${disk.name}, partition ${partition.number}`
    const outside = partition.start + partition.length > disk.size ? 'it ends behind the disk' : undefined
    const why = partition.damaged ?? outside
    if (why !== undefined) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot use partition ${partition.number} of ${disk.name}: ${why}`,
        where: { file: disk.name, structure: 'partition table', index: partition.number },
        advice:
          'The table does not fit the disk. Was the disk cut, or is it the wrong size? The whole disk can be read.',
      })
    }
    this.disk = disk
    this.start = partition.start
    this.size = partition.length
    // Doors ask whether there is such a road before they take it.
    if (disk.transfer) this.transfer = (...range) => this.transferWithin(...range)
  }

  get writable(): boolean {
    return this.disk.writable
  }

  get granularity(): number {
    return this.disk.granularity
  }

  *map(offset: number, length: number): Io<ResolvedExtent> {
    this.assertRange(offset, length)
    return yield* this.disk.map(this.start + offset, length)
  }

  *read(offset: number, target: Uint8Array): Io<void> {
    this.assertRange(offset, target.length)
    yield* this.disk.read(this.start + offset, target)
  }

  *write(offset: number, source: Uint8Array): Io<void> {
    this.assertWritable()
    this.assertRange(offset, source.length)
    yield* this.disk.write(this.start + offset, source)
  }

  *erase(offset: number, length: number): Io<void> {
    this.assertWritable()
    this.assertRange(offset, length)
    yield* this.disk.erase(this.start + offset, length)
  }

  hasten(): void {
    this.disk.hasten?.()
  }

  *flush(): Io<void> {
    yield* this.disk.flush()
  }

  private *transferWithin(offset: number, source: ByteStore, at: number, length: number, sparse?: boolean): Io<number> {
    this.assertWritable()
    this.assertRange(offset, length)
    return yield* this.disk.transfer?.(this.start + offset, source, at, length, sparse) as Io<number>
  }

  private assertWritable(): void {
    if (this.writable) return
    throw new VdiskError('READ_ONLY', {
      message: `Cannot write ${this.name}: its disk was opened for reading`,
      where: { file: this.name },
    })
  }

  private assertRange(offset: number, length: number): void {
    if (offset >= 0 && length >= 0 && offset + length <= this.size && Number.isSafeInteger(offset)) return
    throw new VdiskError('OUT_OF_RANGE', {
      message: `Cannot reach ${length} bytes at ${offset} of ${this.name}: it has ${this.size}`,
      where: { file: this.name, offset },
    })
  }
}
