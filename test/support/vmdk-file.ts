import { vmdk } from '../../lib/formats/vmdk/driver.ts'
import { sparseHeader } from '../../lib/formats/vmdk/layout.ts'
import { promised } from '../../lib/io/io.ts'
import { MemoryFolder } from './memory-image.ts'
import { contentOf } from './stores.ts'

const SECTOR = 512

/** A monolithicSparse file whose bytes can be changed by hand. Sectors and entries are as the format counts them. */
export class VmdkFile {
  readonly bytes: Buffer

  private constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  /** An image of ours with a pattern in some of its grains: grain `n` is filled with `n + 1`. */
  static async make(
    size: number,
    grains: readonly number[],
    options: Readonly<Record<string, string>> = {},
  ): Promise<VmdkFile> {
    const folder = new MemoryFolder()
    const create = vmdk.create as NonNullable<typeof vmdk.create>
    const shape = { size, parent: undefined, options: new Map(Object.entries({ grain_size: '4K', ...options })) }
    const layer = await promised(create(folder.image('a'), shape))
    for (const grain of grains) {
      const room = await promised(layer.reserve(grain * layer.granularity, layer.granularity))
      await room.store.write(room.at, new Uint8Array(layer.granularity).fill(grain + 1))
      await promised(room.publish())
    }
    await promised(layer.close())
    return new VmdkFile(Buffer.from(contentOf(folder.image('a').store)))
  }

  get header(): ReturnType<typeof sparseHeader.decode> {
    return sparseHeader.decode(this.bytes)
  }

  patch(fields: Parameters<typeof sparseHeader.patch>[1]): this {
    sparseHeader.patch(this.bytes, fields)
    return this
  }

  /** Bytes in the file of a grain's entry. */
  entryAt(grain: number, copy = false): number {
    return this.tableAt(Math.floor(grain / 512), copy) + (grain % 512) * 4
  }

  entry(grain: number, copy = false): number {
    return this.bytes.readUInt32LE(this.entryAt(grain, copy))
  }

  /** Sets an entry in both tables, or in one of them. */
  setEntry(grain: number, sector: number, which: 'both' | 'own' | 'copy' = 'both'): this {
    if (which !== 'copy') this.bytes.writeUInt32LE(sector, this.entryAt(grain))
    if (which !== 'own') this.bytes.writeUInt32LE(sector, this.entryAt(grain, true))
    return this
  }

  /** Bytes in the file of an entry of the directory, or its copy. */
  directoryEntryAt(table: number, copy = false): number {
    const { directoryOffset, redundantDirectoryOffset } = this.header
    return (copy ? redundantDirectoryOffset : Number(directoryOffset)) * SECTOR + table * 4
  }

  tableAt(table: number, copy = false): number {
    return this.bytes.readUInt32LE(this.directoryEntryAt(table, copy)) * SECTOR
  }

  get descriptor(): string {
    const at = this.header.descriptorOffset * SECTOR
    return this.bytes.subarray(at, this.bytes.indexOf(0, at)).toString('latin1')
  }

  /** Puts another text into the descriptor's room. */
  describe(text: string): this {
    const { descriptorOffset, descriptorSize } = this.header
    const room = this.bytes.subarray(descriptorOffset * SECTOR, (descriptorOffset + descriptorSize) * SECTOR)
    room.fill(0)
    room.write(text, 'latin1')
    return this
  }
}
