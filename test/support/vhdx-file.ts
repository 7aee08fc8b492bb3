import { crc32c } from '../../lib/bytes/crc32c.ts'
import { guidFromMixedEndian, guidToMixedEndian } from '../../lib/bytes/guid.ts'
import type { NewParent } from '../../lib/contracts/identity.ts'
import { vhdx } from '../../lib/formats/vhdx/driver.ts'
import type { VhdxLayer, WritableVhdxLayer } from '../../lib/formats/vhdx/layer.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { MemoryFolder } from './memory-image.ts'
import { contentOf } from './stores.ts'

export const KIB = 1024
export const MIB = 1 << 20
const HEADERS = [64 * KIB, 128 * KIB]
const TABLES = [192 * KIB, 256 * KIB]
const BAT = '2dc27766-f623-4200-9d64-115e9bfd4a08'
const METADATA = '8b7ca206-4790-4b9a-b8fe-575f050f886e'

/**
 * A VHDX file in memory, laid open for tests: every field can be read and spoiled, with checksums that fit again.
 *
 * It knows the format by itself, from the specification, so that the driver is not tested against its own tables.
 */
export class VhdxFile {
  readonly folder = new MemoryFolder()
  readonly store: MemoryStore

  constructor(store = new MemoryStore('a')) {
    this.store = store
    this.folder.files.set('a', store)
  }

  /** A new file, closed. */
  static async make(size: number, options: Record<string, string> = {}, parent?: NewParent): Promise<VhdxFile> {
    const file = new VhdxFile()
    const shape = { size, parent, options: new Map(Object.entries({ block_size: '1M', ...options })) }
    const layer = await promised((vhdx.create as NonNullable<typeof vhdx.create>)(file.folder.image('a'), shape))
    await promised(layer.close())
    return file
  }

  /** The same bytes in another file. */
  copy(): VhdxFile {
    return new VhdxFile(new MemoryStore('a', { content: contentOf(this.store) }))
  }

  /** Puts something between the driver and the file. */
  wrap(wrapper: (store: ByteStore) => ByteStore): void {
    this.folder.files.set('a', wrapper(this.store))
  }

  async read(): Promise<VhdxLayer> {
    return (await promised(vhdx.open(this.folder.image('a'), 'read'))) as VhdxLayer
  }

  async write(): Promise<WritableVhdxLayer> {
    return (await promised(vhdx.open(this.folder.image('a'), 'write'))) as WritableVhdxLayer
  }

  bytes(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.store.read(at, bytes)
    return bytes
  }

  put(at: number, bytes: Uint8Array): void {
    this.store.write(at, bytes)
  }

  u32(at: number): number {
    return viewOf(this.bytes(at, 4)).getUint32(0, true)
  }

  u64(at: number): bigint {
    return viewOf(this.bytes(at, 8)).getBigUint64(0, true)
  }

  guid(at: number): string {
    return guidFromMixedEndian(this.bytes(at, 16))
  }

  /** The header with the higher sequence number. */
  get header(): { at: number; sequence: bigint; fileWrite: string; dataWrite: string; log: string } {
    const at = HEADERS.toSorted((a, b) => Number(this.u64(b + 8) - this.u64(a + 8)))[0] as number
    return {
      at,
      sequence: this.u64(at + 8),
      fileWrite: this.guid(at + 16),
      dataWrite: this.guid(at + 32),
      log: this.guid(at + 48),
    }
  }

  /** Changes headers (default both), and makes their checksums fit. */
  editHeaders(edit: (view: DataView, bytes: Uint8Array) => void, which: readonly number[] = [0, 1]): void {
    for (const slot of which) this.edit(HEADERS[slot] as number, 4 * KIB, 4, edit)
  }

  /** Changes both copies of the region table, and makes their checksums fit. */
  editRegions(edit: (view: DataView, bytes: Uint8Array) => void, which: readonly number[] = [0, 1]): void {
    for (const slot of which) this.edit(TABLES[slot] as number, 64 * KIB, 4, edit)
  }

  get logAt(): number {
    return Number(this.u64(this.header.at + 72))
  }

  get logLength(): number {
    return this.u32(this.header.at + 68)
  }

  get bat(): { at: number; length: number } {
    return this.region(BAT)
  }

  get metadata(): { at: number; length: number } {
    return this.region(METADATA)
  }

  /** The raw BAT entry; 0n: nothing. */
  entry(index: number): bigint {
    return this.u64(this.bat.at + index * 8)
  }

  setEntry(index: number, value: bigint): void {
    const bytes = new Uint8Array(8)
    viewOf(bytes).setBigUint64(0, value, true)
    this.put(this.bat.at + index * 8, bytes)
  }

  /** Where the entry of a metadata item stands, and where the item lies. */
  item(id: string): { entryAt: number; at: number; length: number } {
    const { at } = this.metadata
    for (let i = 0; i < this.u32(at + 8) >>> 16; i++) {
      const entryAt = at + 32 + i * 32
      if (this.guid(entryAt) === id) return { entryAt, at: at + this.u32(entryAt + 16), length: this.u32(entryAt + 20) }
    }
    throw new Error(`no item ${id}`)
  }

  edit(at: number, length: number, checksumAt: number, edit: (view: DataView, bytes: Uint8Array) => void): void {
    const bytes = this.bytes(at, length)
    edit(viewOf(bytes), bytes)
    if (checksumAt >= 0) {
      viewOf(bytes).setUint32(checksumAt, 0, true)
      viewOf(bytes).setUint32(checksumAt, crc32c(bytes), true)
    }
    this.put(at, bytes)
  }

  /** Puts entries into the log at the given offsets, and says in the headers that there is one. */
  setLog(guid: string, entries: readonly { at: number; bytes: Uint8Array }[]): void {
    this.editHeaders((_, bytes) => bytes.set(guidToMixedEndian(guid), 48))
    for (const { at, bytes } of entries) {
      const toEnd = Math.min(bytes.length, this.logLength - at)
      this.put(this.logAt + at, bytes.subarray(0, toEnd))
      if (toEnd < bytes.length) this.put(this.logAt, bytes.subarray(toEnd))
    }
  }

  private region(id: string): { at: number; length: number } {
    const table = TABLES[0] as number
    for (let i = 0; i < this.u32(table + 8); i++) {
      const entryAt = table + 16 + i * 32
      if (this.guid(entryAt) === id) return { at: Number(this.u64(entryAt + 16)), length: this.u32(entryAt + 24) }
    }
    throw new Error(`no region ${id}`)
  }
}

/** A log entry by the book; what is not given is as it should be. [MS-VHDX] 2.3.1 */
export function logEntry(entry: {
  guid: string
  sequence: number | bigint
  tail: number
  updates?: readonly ({ at: number | bigint; bytes: Uint8Array } | { at: number | bigint; zeros: number | bigint })[]
  flushed: number | bigint
  last: number | bigint
  /** sectors after the last data sector that the entry counts as its own */
  padding?: number
  spoil?: (view: DataView) => void
}): Uint8Array {
  const { updates = [], padding = 0 } = entry
  const sequence = BigInt(entry.sequence)
  const heads = Math.ceil((64 + updates.length * 32) / 4096)
  const data = updates.filter((update) => 'bytes' in update).length
  const bytes = new Uint8Array((heads + data + padding) * 4096)
  const view = viewOf(bytes)
  bytes.set(Buffer.from('loge'), 0)
  view.setUint32(8, bytes.length, true)
  view.setUint32(12, entry.tail, true)
  view.setBigUint64(16, sequence, true)
  view.setUint32(24, updates.length, true)
  bytes.set(guidToMixedEndian(entry.guid), 32)
  view.setBigUint64(48, BigInt(entry.flushed), true)
  view.setBigUint64(56, BigInt(entry.last), true)
  let sector = heads * 4096
  for (const [i, update] of updates.entries()) {
    const at = 64 + i * 32
    bytes.set(Buffer.from('bytes' in update ? 'desc' : 'zero'), at)
    view.setBigUint64(at + 16, BigInt(update.at), true)
    view.setBigUint64(at + 24, sequence, true)
    if ('bytes' in update) {
      bytes.set(update.bytes.subarray(4092), at + 4)
      bytes.set(update.bytes.subarray(0, 8), at + 8)
      bytes.set(update.bytes, sector)
      bytes.set(Buffer.from('data'), sector)
      view.setUint32(sector + 4, Number(sequence >> 32n), true)
      view.setUint32(sector + 4092, Number(sequence & 0xffffffffn), true)
      sector += 4096
    } else {
      view.setBigUint64(at + 8, BigInt(update.zeros), true)
    }
  }
  entry.spoil?.(view)
  view.setUint32(4, 0, true)
  view.setUint32(4, crc32c(bytes), true)
  return bytes
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
