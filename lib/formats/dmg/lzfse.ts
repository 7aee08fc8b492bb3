import { BackwardBits, type FseTable, fseTable } from './fse.ts'
import { type LzfseHeader, readPackedHeader, readPlainHeader, TABLES } from './lzfse-header.ts'
import { unpackLzvn } from './lzvn.ts'
import { Unpacked } from './unpacked.ts'

/** LZFSE: blocks of literals and matches, whose lengths and distances are coded by finite states. [LZFSE, Apple] */

/** What a block begins with: "bvx" and its kind. */
const MAGIC = 0x787662
const END = 0x24
const PLAIN = 0x2d
const PLAIN_TABLES = 0x31
const PACKED_TABLES = 0x32
const LZVN = 0x6e

/** Of each symbol: bits that follow it, and what is added to them. Four symbols of a distance have as many bits. */
const LITERAL_LENGTHS = valuesOf([...Array(16).fill(0), 2, 3, 5, 8])
const MATCH_LENGTHS = valuesOf([...Array(16).fill(0), 3, 5, 8, 11])
const DISTANCES = valuesOf(Array.from({ length: 64 }, (_, symbol) => symbol >>> 2))

interface Values {
  readonly bits: readonly number[]
  readonly bases: readonly number[]
}

/** Each symbol goes on where the values of the one before it end. */
function valuesOf(bits: readonly number[]): Values {
  let next = 0
  const bases = bits.map((count) => {
    next += 2 ** count
    return next - 2 ** count
  })
  return { bits, bases }
}

/** @throws RangeError if it is damaged, or does not fill `target` */
export function unpackLzfse(packed: Uint8Array, target: Uint8Array): void {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength)
  const unpacked = new Unpacked(target)
  const word = (at: number): number => {
    if (at + 4 > packed.length) throw new RangeError('it ends in the middle of an LZFSE block')
    return view.getUint32(at, true)
  }
  for (let at = 0; ; ) {
    const magic = word(at)
    if ((magic & 0xffffff) !== MAGIC) throw new RangeError('no LZFSE block begins where one should')
    const kind = magic >>> 24
    if (kind === END) break
    if (kind === PLAIN) {
      const length = word(at + 4)
      unpacked.literals(packed, at + 8, length)
      at += 8 + length
    } else if (kind === LZVN) {
      const length = word(at + 8)
      unpackLzvn(packed.subarray(at + 12, at + 12 + length), unpacked)
      at += 12 + length
    } else if (kind === PLAIN_TABLES || kind === PACKED_TABLES) {
      const block = packed.subarray(at)
      const header = kind === PACKED_TABLES ? readPackedHeader(block) : readPlainHeader(block)
      const end = header.length + header.literalBytes + header.matchBytes
      if (end > block.length) throw new RangeError('it ends in the middle of an LZFSE block')
      unpackBlock(block.subarray(0, end), header, unpacked)
      at += end
    } else throw new RangeError(`an LZFSE block of kind ${kind} is not known`)
  }
  if (unpacked.room > 0) throw new RangeError(`it holds ${unpacked.length} bytes instead of ${target.length}`)
}

function unpackBlock(block: Uint8Array, header: LzfseHeader, unpacked: Unpacked): void {
  const tables = TABLES.map(({ states }, i) => fseTable(states, header.counts[i] as Uint16Array))
  const [lengths, matches, distances, literalTable] = tables as [FseTable, FseTable, FseTable, FseTable]
  const matchesAt = header.length + header.literalBytes
  const literals = unpackLiterals(block.subarray(header.length, matchesAt), header, literalTable)
  const bits = new BackwardBits(block.subarray(matchesAt), header.matchUnused)
  const [l, m, d] = header.matchStates
  const literalLengths = new ValueStream(bits, l, lengths, LITERAL_LENGTHS)
  const matchLengths = new ValueStream(bits, m, matches, MATCH_LENGTHS)
  const distanceStream = new ValueStream(bits, d, distances, DISTANCES)
  let used = 0
  let distance = 0
  for (let i = 0; i < header.matchCount; i++) {
    const literalLength = literalLengths.next()
    const matchLength = matchLengths.next()
    // None means the one before.
    distance = distanceStream.next() || distance
    unpacked.literals(literals, used, literalLength)
    used += literalLength
    if (matchLength > 0) unpacked.match(distance, matchLength)
  }
}

/** Four streams of states take turns in one stream of bits. */
function unpackLiterals(stream: Uint8Array, header: LzfseHeader, table: FseTable): Uint8Array {
  const bits = new BackwardBits(stream, header.literalUnused)
  const states = [...header.literalStates]
  const literals = new Uint8Array(header.literalCount)
  for (let i = 0; i < literals.length; i++) {
    const state = states[i & 3] as number
    literals[i] = table.symbols[state] as number
    states[i & 3] = (table.bases[state] as number) + bits.take(table.bits[state] as number)
  }
  return literals
}

/** Numbers, each coded by a state and by bits that follow it. */
class ValueStream {
  private readonly bits: BackwardBits
  private readonly table: FseTable
  private readonly values: Values
  private state: number

  constructor(bits: BackwardBits, state: number, table: FseTable, values: Values) {
    this.bits = bits
    this.state = state
    this.table = table
    this.values = values
  }

  next(): number {
    const { table, state, values } = this
    const symbol = table.symbols[state] as number
    this.state = (table.bases[state] as number) + this.bits.take(table.bits[state] as number)
    return (values.bases[symbol] as number) + this.bits.take(values.bits[symbol] as number)
  }
}
