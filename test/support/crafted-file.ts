import { MemoryStore } from '../../lib/io/memory.ts'

/**
 * A file of bytes that tests put together field by field. It knows no format: whoever crafts one says where what lies,
 * from its specification.
 */
export class CraftedFile {
  bytes: Buffer
  private readonly order: 'big' | 'little'

  constructor(length: number, order: 'big' | 'little') {
    this.bytes = Buffer.alloc(length)
    this.order = order
  }

  u8(at: number, value: number): this {
    this.bytes.writeUInt8(value, at)
    return this
  }

  u16(at: number, value: number): this {
    if (this.order === 'big') this.bytes.writeUInt16BE(value, at)
    else this.bytes.writeUInt16LE(value, at)
    return this
  }

  u32(at: number, value: number): this {
    if (this.order === 'big') this.bytes.writeUInt32BE(value, at)
    else this.bytes.writeUInt32LE(value, at)
    return this
  }

  u64(at: number, value: number | bigint): this {
    if (this.order === 'big') this.bytes.writeBigUInt64BE(BigInt(value), at)
    else this.bytes.writeBigUInt64LE(BigInt(value), at)
    return this
  }

  text(at: number, text: string): this {
    this.bytes.write(text, at, 'latin1')
    return this
  }

  fill(at: number, length: number, value = 0): this {
    this.bytes.fill(value, at, at + length)
    return this
  }

  /** Puts bytes over others. */
  put(at: number, bytes: Uint8Array): this {
    this.bytes.set(bytes, at)
    return this
  }

  /** Makes the file longer, or shorter. */
  resize(length: number): this {
    const bytes = Buffer.alloc(length)
    this.bytes.copy(bytes, 0, 0, length)
    this.bytes = bytes
    return this
  }

  store(): MemoryStore {
    return new MemoryStore('crafted', { content: this.bytes })
  }
}
