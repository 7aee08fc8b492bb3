import { Chain } from '../../lib/chain/chain.ts'
import type { NewParent } from '../../lib/contracts/identity.ts'
import type { Layer, WritableLayer } from '../../lib/contracts/layer.ts'
import { RepairReport, type RepairScope } from '../../lib/contracts/repair.ts'
import type { VdiskError } from '../../lib/errors.ts'
import { vhd } from '../../lib/formats/vhd/driver.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryStore } from '../../lib/io/memory.ts'
import { checkLayer } from '../contract/driver-contract.ts'
import { MemoryFolder } from './memory-image.ts'
import { contentOf } from './stores.ts'

const HEADER = 512
const SECTOR = 512

/**
 * A VHD file in memory, laid open for tests: every field can be read and spoiled, with checksums that fit again.
 *
 * It knows the format by itself, from the specification, so that the driver is not tested against its own tables. It
 * expects a file as we make it: header and BAT behind the footer's copy.
 */
export class VhdFile {
  readonly folder = new MemoryFolder()
  readonly store: MemoryStore

  constructor(content?: Uint8Array) {
    this.store = new MemoryStore('a', content && { content })
    this.folder.files.set('a', this.store)
  }

  /** A new file, closed. */
  static async make(size: number, options: Record<string, string> = {}, parent?: NewParent): Promise<VhdFile> {
    const file = new VhdFile()
    const shape = { size, parent, options: new Map(Object.entries({ block_size: '64K', ...options })) }
    const layer = await promised((vhd.create as NonNullable<typeof vhd.create>)(file.folder.image('a'), shape))
    await promised(layer.close())
    return file
  }

  get size(): number {
    return this.store.size()
  }

  async read(): Promise<Layer> {
    return await promised(vhd.open(this.folder.image('a'), 'read'))
  }

  async write(): Promise<WritableLayer> {
    return (await promised(vhd.open(this.folder.image('a'), 'write'))) as WritableLayer
  }

  /** Opens it, leaving out what can be left out. @returns what was told, too */
  async salvage(): Promise<{ layer: Layer; told: VdiskError[] }> {
    const told: VdiskError[] = []
    const image = { ...this.folder.image('a'), leaveOut: (damage: VdiskError) => told.push(damage) }
    return { layer: await promised(vhd.open(image, 'read')), told }
  }

  async repair(scope: RepairScope = 'all', { ignoreChecksums = false } = {}): Promise<RepairReport> {
    const report = new RepairReport(scope, () => {}, { ignoreChecksums })
    await promised((vhd.repair as NonNullable<typeof vhd.repair>)(this.folder.image('a'), report))
    return report
  }

  /** Codes of all findings of a check. */
  async findings(): Promise<string[]> {
    return (await checkLayer(vhd, await this.read())).findings.map(({ code }) => code)
  }

  /** What the guest reads. */
  async content(below: readonly Layer[] = []): Promise<Uint8Array> {
    const layer = await this.read()
    const bytes = new Uint8Array(layer.size)
    await promised(new Chain([...below, layer]).read(0, bytes))
    return bytes
  }

  async fill(offset: number, bytes: Uint8Array, below: readonly Layer[] = []): Promise<void> {
    const chain = new Chain([...below, await this.write()])
    await promised(chain.write(offset, bytes))
    await promised((chain.layers.at(-1) as Layer).close())
  }

  get bytes(): Uint8Array {
    return contentOf(this.store)
  }

  at(at: number, length: number): Buffer {
    const bytes = Buffer.alloc(length)
    this.store.read(at, bytes)
    return bytes
  }

  put(at: number, bytes: Uint8Array): void {
    this.store.write(at, bytes)
  }

  u32(at: number): number {
    return this.at(at, 4).readUInt32BE()
  }

  setU32(at: number, value: number): void {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32BE(value >>> 0)
    this.put(at, bytes)
  }

  /** Where the BAT starts. */
  get table(): number {
    return Number(this.at(HEADER + 16, 8).readBigUInt64BE())
  }

  entry(block: number): number {
    return this.u32(this.table + block * 4)
  }

  setEntry(block: number, entry: number): void {
    this.setU32(this.table + block * 4, entry)
  }

  /** Changes both footers, which get checksums that fit. */
  editFooters(edit: (footer: Buffer) => unknown, places: readonly number[] = [0, this.size - SECTOR]): void {
    for (const at of places) this.edit(at, SECTOR, 64, edit)
  }

  /** Changes the header, which gets a checksum that fits. */
  editHeader(edit: (header: Buffer) => unknown): void {
    this.edit(HEADER, 1024, 36, edit)
  }

  private edit(at: number, length: number, sumAt: number, edit: (bytes: Buffer) => unknown): void {
    const bytes = this.at(at, length)
    edit(bytes)
    bytes.writeUInt32BE(0, sumAt)
    bytes.writeUInt32BE(~bytes.reduce((sum, byte) => sum + byte, 0) >>> 0, sumAt)
    this.put(at, bytes)
  }
}
