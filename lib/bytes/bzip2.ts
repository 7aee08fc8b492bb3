import { BitReader } from './bit-reader.ts'

/**
 * Unpacking bzip2: blocks of up to 900 kB, each sorted by what follows each byte (Burrows and Wheeler), then moved to front
 * and packed with Huffman codes. There is no specification; names are those of the program's own description.
 */

const STREAM = 0x425a68
const BLOCK_MAGIC = [0x314159, 0x265359] as const
const END_MAGIC = [0x177245, 0x385090] as const
const BLOCK_UNIT = 100_000
/** symbols that share a choice of code */
const GROUP = 50
const LONGEST_CODE = 20
const RUN_A = 0
const RUN_B = 1

/** Made when first needed: most programs never see bzip2. */
let crcTable: Int32Array | undefined

export function isBzip2(head: Uint8Array): boolean {
  const [level = 0] = head.subarray(3)
  const wanted = [0x42, 0x5a, 0x68, level, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]
  return level >= 0x31 && level <= 0x39 && wanted.every((byte, i) => head[i] === byte)
}

/** What is unpacked, with room that grows up to a limit. */
class Output {
  bytes: Uint8Array
  length = 0
  private readonly limit: number

  constructor(limit: number) {
    this.limit = limit
    this.bytes = new Uint8Array(Math.min(limit, 1 << 20))
  }

  /** Makes room. @throws RangeError where there may not be more */
  reserve(count: number): void {
    const wanted = this.length + count
    if (wanted > this.limit) throw new TooMuch()
    if (wanted <= this.bytes.length) return
    const larger = new Uint8Array(Math.min(this.limit, Math.max(wanted, 2 * this.bytes.length)))
    larger.set(this.bytes.subarray(0, this.length))
    this.bytes = larger
  }
}

/** Room for a sorted block, made once: a file may have very many very small blocks. */
class Room {
  private room = new Uint32Array(0)

  of(size: number): Uint32Array {
    if (this.room.length < size) this.room = new Uint32Array(size)
    return this.room.subarray(0, size)
  }
}

/** There is more in it than is wanted. */
export class TooMuch extends RangeError {
  constructor() {
    super('it holds more than it should')
  }
}

/**
 * Unpacks all streams that stand one after the other.
 *
 * @param limit bytes at most
 * @throws TooMuch; RangeError if it is damaged
 */
export function unpackBzip2(packed: Uint8Array, limit: number): Uint8Array {
  const output = new Output(limit)
  const room = new Room()
  const bits = new BitReader(packed)
  for (let first = true; first || bits.position < packed.length; first = false) {
    const isStream = bits.bits(24) === STREAM
    const level = bits.bits(8) - 0x30
    if (!isStream || level < 1 || level > 9) {
      if (first) throw new RangeError('no bzip2 stream begins here')
      // As bzip2 has it: what follows the last stream is passed over.
      break
    }
    unpackStream(bits, room.of(level * BLOCK_UNIT), output)
    bits.align()
  }
  return output.bytes.subarray(0, output.length)
}

/** @param room for one sorted block */
function unpackStream(bits: BitReader, room: Uint32Array, output: Output): void {
  let combined = 0
  for (;;) {
    const magic = [bits.bits(24), bits.bits(24)]
    const crc = (bits.bits(16) << 16) | bits.bits(16)
    if (bits.pastEnd) throw new RangeError('it ends in the middle of a bzip2 stream')
    if (magic[0] === END_MAGIC[0] && magic[1] === END_MAGIC[1]) {
      if (crc !== combined) throw new RangeError('the checksum of its bzip2 stream is wrong')
      return
    }
    if (magic[0] !== BLOCK_MAGIC[0] || magic[1] !== BLOCK_MAGIC[1]) throw new RangeError('no bzip2 block begins here')
    const from = output.length
    unpackBlock(bits, room, output)
    if (crcOf(output.bytes.subarray(from, output.length)) !== crc) {
      throw new RangeError('the checksum of a bzip2 block is wrong')
    }
    combined = ((combined << 1) | (combined >>> 31)) ^ crc
  }
}

function unpackBlock(bits: BitReader, sorted: Uint32Array, output: Output): void {
  if (bits.bits(1) !== 0) throw new RangeError('it is packed by a bzip2 older than 0.9.5')
  const origin = bits.bits(24)
  const symbols = readSymbols(bits)
  const codes = readCodes(bits, symbols.length + 2)
  const counts = new Uint32Array(256)
  const length = unpackSorted(bits, { symbols, codes }, { sorted, counts })
  if (origin >= length) throw new RangeError('a bzip2 block begins behind its end')
  invert(sorted, counts, length)
  unpackRuns(sorted, origin, length, output)
}

/** The bytes that occur in a block. */
function readSymbols(bits: BitReader): Uint8Array {
  const ranges = bits.bits(16)
  const used: number[] = []
  for (let range = 0; range < 16; range++) {
    if ((ranges & (0x8000 >>> range)) === 0) continue
    const present = bits.bits(16)
    for (let i = 0; i < 16; i++) if (present & (0x8000 >>> i)) used.push(range * 16 + i)
  }
  if (used.length === 0) throw new RangeError('a bzip2 block holds no bytes')
  return Uint8Array.from(used)
}

/** A Huffman code: of each length the largest code, and what to add to a code to get its place among the symbols. */
interface Code {
  readonly symbols: Uint16Array
  readonly largest: Int32Array
  readonly offsets: Int32Array
}

/** The code of each group of symbols. */
function readCodes(bits: BitReader, symbolCount: number): Code[] {
  const codeCount = bits.bits(3)
  const groupCount = bits.bits(15)
  if (codeCount < 2 || codeCount > 6 || groupCount === 0) throw new RangeError('the codes of a bzip2 block cannot be')
  const order = Array.from({ length: codeCount }, (_, i) => i)
  const choices = new Uint8Array(groupCount)
  for (let group = 0; group < groupCount; group++) {
    let place = 0
    while (bits.bits(1) === 1) if (++place >= codeCount) throw new RangeError('a bzip2 block chooses a code it lacks')
    const [chosen] = order.splice(place, 1) as [number]
    order.unshift(chosen)
    choices[group] = chosen
  }
  const codes = Array.from({ length: codeCount }, () => readCode(bits, symbolCount))
  return Array.from(choices, (choice) => codes[choice] as Code)
}

function readCode(bits: BitReader, symbolCount: number): Code {
  const lengths = new Uint8Array(symbolCount)
  let length = bits.bits(5)
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    while (bits.bits(1) === 1) {
      length += bits.bits(1) === 0 ? 1 : -1
      if (length < 1 || length > LONGEST_CODE) break
    }
    if (length < 1 || length > LONGEST_CODE) throw new RangeError('a bzip2 code is too long or too short')
    lengths[symbol] = length
  }
  return codeOf(lengths)
}

function codeOf(lengths: Uint8Array): Code {
  const symbols = new Uint16Array(lengths.length)
  const largest = new Int32Array(LONGEST_CODE + 2).fill(-1)
  const offsets = new Int32Array(LONGEST_CODE + 2)
  let code = 0
  let placed = 0
  for (let length = 1; length <= LONGEST_CODE; length++) {
    offsets[length] = placed - code
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue
      symbols[placed++] = symbol
      code++
    }
    largest[length] = code - 1
    code <<= 1
  }
  return { symbols, largest, offsets }
}

function nextSymbol(bits: BitReader, { symbols, largest, offsets }: Code): number {
  let code = 0
  for (let length = 1; length <= LONGEST_CODE; length++) {
    code = (code << 1) | bits.bits(1)
    if (code > (largest[length] as number)) continue
    const symbol = symbols[code + (offsets[length] as number)]
    if (symbol !== undefined) return symbol
  }
  throw new RangeError('a bzip2 block has a code that stands for nothing')
}

interface Sorted {
  /** of each place in the sorted block its byte, in the lowest bits */
  readonly sorted: Uint32Array
  /** how often each byte occurs */
  readonly counts: Uint32Array
}

/** @returns bytes of the block */
function unpackSorted(
  bits: BitReader,
  { symbols, codes }: { readonly symbols: Uint8Array; readonly codes: readonly Code[] },
  { sorted, counts }: Sorted,
): number {
  const front = Uint8Array.from(symbols)
  const end = symbols.length + 1
  let length = 0
  let run = 0
  let weight = 1
  for (let taken = 0; ; taken++) {
    const code = codes[Math.floor(taken / GROUP)]
    if (!code || bits.pastEnd) throw new RangeError('a bzip2 block does not end')
    const symbol = nextSymbol(bits, code)
    if (symbol === RUN_A || symbol === RUN_B) {
      run += weight << symbol
      weight *= 2
      if (run > sorted.length - length) throw new RangeError('a bzip2 block holds more than it may')
      continue
    }
    if (run > 0) {
      const byte = front[0] as number
      counts[byte] = (counts[byte] as number) + run
      sorted.fill(byte, length, length + run)
      length += run
      run = 0
      weight = 1
    }
    if (symbol === end) return length
    if (length === sorted.length) throw new RangeError('a bzip2 block holds more than it may')
    const byte = front[symbol - 1] as number
    front.copyWithin(1, 0, symbol - 1)
    front[0] = byte
    counts[byte] = (counts[byte] as number) + 1
    sorted[length++] = byte
  }
}

/** Notes above the byte of each place which place follows it. */
function invert(sorted: Uint32Array, counts: Uint32Array, length: number): void {
  const next = new Uint32Array(256)
  let sum = 0
  for (let byte = 0; byte < 256; byte++) {
    next[byte] = sum
    sum += counts[byte] as number
  }
  for (let place = 0; place < length; place++) {
    const byte = (sorted[place] as number) & 255
    const at = next[byte] as number
    next[byte] = at + 1
    sorted[at] = (sorted[at] as number) | (place << 8)
  }
}

/** Walks the places in their order; after four equal bytes a count of further ones follows. */
function unpackRuns(sorted: Uint32Array, origin: number, length: number, output: Output): void {
  let place = (sorted[origin] as number) >>> 8
  let previous = -1
  let equal = 0
  for (let i = 0; i < length; i++) {
    const entry = sorted[place] as number
    const byte = entry & 255
    place = entry >>> 8
    if (equal === 4) {
      output.reserve(byte)
      output.bytes.fill(previous, output.length, output.length + byte)
      output.length += byte
      equal = 0
      previous = -1
      continue
    }
    equal = byte === previous ? equal + 1 : 1
    previous = byte
    output.reserve(1)
    output.bytes[output.length++] = byte
  }
}

/** CRC-32, polynomial 0x04C11DB7, highest bit first. */
function crcOf(bytes: Uint8Array): number {
  crcTable ??= makeCrcTable()
  let crc = -1
  for (const byte of bytes) crc = (crc << 8) ^ (crcTable[(crc >>> 24) ^ byte] as number)
  return ~crc
}

function makeCrcTable(): Int32Array {
  return Int32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte << 24
    for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1
    return crc
  })
}
