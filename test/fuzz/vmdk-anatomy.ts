import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'
import { cowdAnatomy, seSparseAnatomy } from './vmdk-esx-anatomy.ts'
import { streamAnatomy } from './vmdk-stream-anatomy.ts'

const SECTOR = 512
const DESCRIPTOR_BYTES = 20 * SECTOR

/** Lines that mean something else than those they take the place of. */
const LINES = [
  'CID=00000000',
  'CID=zzz',
  'parentCID=12345678',
  'parentCID=ffffffff',
  'parentFileNameHint="parent"',
  'parentFileNameHint="../../etc/passwd"',
  'parentFileNameHint="image"',
  'createType="fullDevice"',
  'createType="streamOptimized"',
  'RW 1 SPARSE "image"',
  'RW 99999999999999999 FLAT "image" 0',
  'RW 2048 FLAT "parent" 9',
  'RDONLY 64 ZERO',
  'NOACCESS 64 FLAT "parent" 0',
  'RW 64 VMFSRDM "image"',
  'RW 64 SESPARSE "image"',
  'RW 8192 VMFSSPARSE "image-delta.vmdk"',
  'RW 8192 SPARSE "image-delta.vmdk"',
  'createType="vmfsSparse"',
  'nonsense',
  'ddb.vdisk.link = "{|22version|22:1}"',
  'ddb.longContentID = "0"',
  '# vdisk changes the descriptor: 1 1 1',
]

/** Compressed grains, and markers between them: one of the two is a stream already, if a damaged one. */
const STREAM_FLAGS = 0x30000

/** Walks a VMDK file as far as it makes sense. It knows the format by itself and believes everything. */
export function vmdkAnatomy(store: ByteStore, random: Random): Anatomy {
  const numbers = new Numbers(store, 'little')
  const magic = numbers.u32(0)
  if (magic === 0x44574f43) return cowdAnatomy(store, random)
  if (magic === 0xcafebabe) return seSparseAnatomy(store, random)
  const walk = new Walk(store, random)
  if (magic === 0x564d444b && (numbers.u32(8) & STREAM_FLAGS) !== 0) {
    return streamAnatomy(store, random, (by) => walk.line(by))
  }
  walk.file()
  return {
    order: 'little',
    unit: SECTOR,
    fields: walk.fields,
    parts: walk.parts,
    sums: [],
    special: (by) => walk.special(by),
  }
}

class Walk {
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  private readonly random: Random
  private readonly numbers: Numbers
  private readonly isSparse: boolean
  /** entries of directories, and of tables */
  private readonly directoryEntries: number[] = []
  private readonly tableEntries: number[] = []

  constructor(store: ByteStore, random: Random) {
    this.random = random
    this.numbers = new Numbers(store, 'little')
    this.isSparse = this.numbers.u32(0) === 0x564d444b
  }

  file(): void {
    if (!this.isSparse) {
      this.part(0, this.numbers.size)
      return
    }
    this.part(0, 80)
    for (const at of [4, 8, 44]) this.field(at, 4)
    for (const at of [12, 20, 28, 36, 48, 56, 64]) this.field(at, 8)
    this.field(72, 1)
    this.field(77, 2)
    this.part(this.numbers.u64(28) * SECTOR, DESCRIPTOR_BYTES)
    for (const at of [48, 56]) this.walkDirectory(this.numbers.u64(at) * SECTOR)
  }

  /** Lines of the descriptor, and entries that name what others do, or what is no grain at all. */
  special(random: Random): Edit[] {
    if (!this.isSparse || random.chance(0.4)) return [this.line(random)]
    const entries = random.chance(0.2) ? this.directoryEntries : this.tableEntries
    if (entries.length === 0) return []
    const others = [...this.tableEntries, ...this.directoryEntries].map((at) => this.numbers.u32(at))
    const end = Math.floor(this.numbers.size / SECTOR)
    const value = random.pick([0, 1, 2, 21, end, end - 1, end + 128, 0xffffffff, random.pick(others)])
    return [setField({ at: random.pick(entries), width: 4, role: 'number' }, BigInt(value), 'little')]
  }

  line(random: Random): Edit {
    const start = this.isSparse ? this.numbers.u64(28) * SECTOR : 0
    const text = Buffer.from(random.pick(LINES) + random.pick(['\n', '\n', '\r\n', '', '\0']), 'latin1')
    return {
      do: 'put',
      at: start + random.below(this.isSparse ? 600 : Math.max(1, this.numbers.size)),
      hex: text.toString('hex'),
    }
  }

  private walkDirectory(at: number): void {
    const grains = this.numbers.u64(12) / Math.max(1, this.numbers.u64(20))
    const count = Math.min(1 << 20, Math.ceil(grains / Math.max(1, this.numbers.u32(44))))
    this.part(at, Math.min(count * 4, 4096))
    for (const index of sampled(count, this.random)) {
      const place = at + index * 4
      this.directoryEntries.push(place)
      this.field(place, 4)
      this.walkTable(this.numbers.u32(place) * SECTOR)
    }
  }

  private walkTable(at: number): void {
    if (at === 0) return
    this.part(at, 2048)
    for (const index of sampled(512, this.random, 12)) {
      this.tableEntries.push(at + index * 4)
      this.field(at + index * 4, 4)
    }
  }

  private field(at: number, width: Field['width']): void {
    if (at >= 0 && at + width <= this.numbers.size) this.fields.push({ at, width, role: 'number' })
  }

  private part(at: number, length: number): void {
    if (at >= 0 && at < this.numbers.size && length > 0)
      this.parts.push({ at, length: Math.min(length, this.numbers.size - at) })
  }
}
