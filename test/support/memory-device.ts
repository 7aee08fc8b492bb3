import { type Device, type Io, type ResolvedExtent, VdiskError } from '../../lib/index.ts'
import type { ByteStore } from '../../lib/io/store.ts'

const GRANULE = 4096

/** A disk in memory that notes what it is asked, and waits or fails where a test says so. Granules of zeros are holes. */
export class MemoryDevice implements Device {
  readonly name = 'memory'
  readonly granularity = GRANULE
  readonly writable: boolean
  readonly bytes: Uint8Array
  /** every call, as `read 4096 512` */
  readonly calls: string[] = []
  /** the buffers that calls were given, in order */
  readonly buffers: Uint8Array[] = []
  /** Called before each operation: may throw, or give a promise to wait for. */
  before: (call: string) => Promise<unknown> | undefined = () => undefined

  constructor(size: number, options: { writable?: boolean } = {}) {
    this.bytes = new Uint8Array(size)
    this.writable = options.writable ?? true
  }

  get size(): number {
    return this.bytes.length
  }

  *map(offset: number, length: number): Io<ResolvedExtent> {
    yield* this.note(`map ${offset}`)
    this.assertRange(offset, length)
    const kind = this.isZero(offset)
    let end = offset
    while (end < offset + length && this.isZero(end) === kind) end = Math.min(offset + length, nextGranule(end))
    return kind
      ? { kind: 'zero', length: end - offset, depth: undefined }
      : { kind: 'data', length: end - offset, depth: 0, store: this as unknown as ByteStore, at: offset }
  }

  *read(offset: number, target: Uint8Array): Io<void> {
    this.buffers.push(target)
    yield* this.note(`read ${offset} ${target.length}`)
    this.assertRange(offset, target.length)
    target.set(this.bytes.subarray(offset, offset + target.length))
  }

  *write(offset: number, source: Uint8Array): Io<void> {
    this.buffers.push(source)
    yield* this.note(`write ${offset} ${source.length}`)
    this.assertWritable()
    this.assertRange(offset, source.length)
    this.bytes.set(source, offset)
  }

  *erase(offset: number, length: number): Io<void> {
    yield* this.note(`erase ${offset} ${length}`)
    this.assertWritable()
    this.assertRange(offset, length)
    this.bytes.fill(0, offset, offset + length)
  }

  *flush(): Io<void> {
    yield* this.note('flush')
  }

  private *note(call: string): Io<void> {
    this.calls.push(call)
    const wait = this.before(call)
    if (wait) yield wait
  }

  private assertRange(offset: number, length: number): void {
    if (Number.isSafeInteger(offset) && offset >= 0 && offset + length <= this.size) return
    throw new VdiskError('OUT_OF_RANGE', {
      message: `Cannot reach ${length} bytes at ${offset} of ${this.name}: the disk has ${this.size}`,
      where: { file: this.name, offset },
    })
  }

  private assertWritable(): void {
    if (this.writable) return
    throw new VdiskError('READ_ONLY', {
      message: `Cannot write ${this.name}: it is for reading`,
      where: { file: this.name },
    })
  }

  private isZero(offset: number): boolean {
    return this.bytes.subarray(offset - (offset % GRANULE), nextGranule(offset)).every((byte) => byte === 0)
  }
}

function nextGranule(offset: number): number {
  return offset - (offset % GRANULE) + GRANULE
}
