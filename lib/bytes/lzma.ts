/**
 * Decoding LZMA, as LZMA2 wraps it: literals and matches, whose bits are coded by a range coder with adaptive probabilities.
 * [LZMA specification, 7-Zip; names are those of its text]
 */

const STATES = 12
const POSITIONS = 16
const FULL_DISTANCES = 128
const ALIGN_BITS = 4

/** Where the probabilities of each kind begin in one table. */
const IS_MATCH = 0
const IS_REP = IS_MATCH + STATES * POSITIONS
const IS_REP_G0 = IS_REP + STATES
const IS_REP_G1 = IS_REP_G0 + STATES
const IS_REP_G2 = IS_REP_G1 + STATES
const IS_REP0_LONG = IS_REP_G2 + STATES
const DISTANCE_SLOT = IS_REP0_LONG + STATES * POSITIONS
const DISTANCE_SPECIAL = DISTANCE_SLOT + 4 * 64
const DISTANCE_ALIGN = DISTANCE_SPECIAL + FULL_DISTANCES
const MATCH_LENGTH = DISTANCE_ALIGN + (1 << ALIGN_BITS)
/** choice, second choice, 16 times 8 short lengths, 16 times 8 middle ones, 256 long ones */
const LENGTH_TABLE = 2 + 2 * POSITIONS * 8 + 256
const REP_LENGTH = MATCH_LENGTH + LENGTH_TABLE
const LITERAL = REP_LENGTH + LENGTH_TABLE
const LITERAL_TABLE = 0x300
/** LZMA2 allows no more than 4 bits of context for a literal. */
const MOST_LITERAL_TABLES = 1 << 4

const EVEN = 1024
/** The bits of a range of which one must be set. */
const TOP = 0xff000000

/** The next state after a literal. ["State machine"] */
const AFTER_LITERAL = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5]

/** Decodes chunks of one stream into one run of bytes, which is the dictionary as well. */
export class LzmaDecoder {
  private readonly target: Uint8Array
  private readonly dictionarySize: number
  private readonly probabilities = new Uint16Array(LITERAL + LITERAL_TABLE * MOST_LITERAL_TABLES)
  private literalContextBits = 0
  private literalPositionMask = 0
  private positionMask = 0
  private state = 0
  private rep0 = 0
  private rep1 = 0
  private rep2 = 0
  private rep3 = 0
  /** where the dictionary begins */
  private start = 0
  /** bytes decoded */
  private done = 0
  private source: Uint8Array = new Uint8Array(0)
  private at = 0
  // Unsigned, in the 32 bits of signed numbers: those are no objects of their own.
  private range = 0
  private code = 0

  /** @param dictionarySize bytes that a match may reach back */
  constructor(target: Uint8Array, dictionarySize: number) {
    this.target = target
    this.dictionarySize = dictionarySize
  }

  /** bytes decoded so far */
  get length(): number {
    return this.done
  }

  /** What lies before is forgotten. */
  resetDictionary(): void {
    this.start = this.done
  }

  /** @throws RangeError for a byte that is none of properties */
  setProperties(byte: number): void {
    const contextBits = byte % 9
    const positionBits = Math.floor(byte / 9) % 5
    if (byte >= 225 || contextBits + positionBits > 4) throw new RangeError('its LZMA properties cannot be')
    this.literalContextBits = contextBits
    this.literalPositionMask = (1 << positionBits) - 1
    this.positionMask = (1 << Math.floor(byte / 45)) - 1
  }

  resetState(): void {
    this.probabilities.fill(EVEN)
    this.state = 0
    this.rep0 = 0
    this.rep1 = 0
    this.rep2 = 0
    this.rep3 = 0
  }

  /** Takes bytes as they are. @throws RangeError if there is no room */
  copy(bytes: Uint8Array): void {
    if (bytes.length > this.target.length - this.done) throw tooLong()
    this.target.set(bytes, this.done)
    this.done += bytes.length
  }

  /** Decodes `length` bytes from exactly `packed`. @throws RangeError if that cannot be */
  decode(packed: Uint8Array, length: number): void {
    const end = this.done + length
    if (end > this.target.length) throw tooLong()
    this.source = packed
    this.at = 5
    this.range = -1
    this.code = new DataView(packed.buffer, packed.byteOffset).getInt32(1)
    while (this.done < end) this.decodeOne(end)
    if (this.at !== packed.length || this.code !== 0)
      throw new RangeError('its LZMA chunk does not end where it should')
  }

  private decodeOne(end: number): void {
    const position = (this.done - this.start) & this.positionMask
    if (this.bit(IS_MATCH + this.state * POSITIONS + position) === 0) {
      this.literal()
      return
    }
    let length: number
    if (this.bit(IS_REP + this.state) === 0) {
      length = this.lengthOf(MATCH_LENGTH, position)
      this.state = this.state < 7 ? 7 : 10
      this.rep3 = this.rep2
      this.rep2 = this.rep1
      this.rep1 = this.rep0
      this.rep0 = this.distance(length)
    } else {
      length = this.repeated(position)
    }
    this.copyMatch(length, end)
  }

  private literal(): void {
    const { target, done, start } = this
    const previous = done > start ? (target[done - 1] as number) : 0
    const shift = this.literalContextBits
    const context = (((done - start) & this.literalPositionMask) << shift) + (previous >>> (8 - shift))
    const table = LITERAL + LITERAL_TABLE * context
    let symbol = 1
    if (this.state >= 7) {
      this.assertReaches()
      let matched = target[done - this.rep0 - 1] as number
      do {
        const matchBit = (matched >>> 7) & 1
        matched <<= 1
        const bit = this.bit(table + ((1 + matchBit) << 8) + symbol)
        symbol = (symbol << 1) | bit
        if (matchBit !== bit) break
      } while (symbol < 0x100)
    }
    while (symbol < 0x100) symbol = (symbol << 1) | this.bit(table + symbol)
    target[this.done++] = symbol
    this.state = AFTER_LITERAL[this.state] as number
  }

  /** A match at one of the last four distances. @returns its length */
  private repeated(position: number): number {
    const { state } = this
    if (this.bit(IS_REP_G0 + state) === 0) {
      if (this.bit(IS_REP0_LONG + state * POSITIONS + position) === 0) {
        this.state = state < 7 ? 9 : 11
        return 1
      }
    } else {
      let distance: number
      if (this.bit(IS_REP_G1 + state) === 0) distance = this.rep1
      else {
        if (this.bit(IS_REP_G2 + state) === 0) distance = this.rep2
        else {
          distance = this.rep3
          this.rep3 = this.rep2
        }
        this.rep2 = this.rep1
      }
      this.rep1 = this.rep0
      this.rep0 = distance
    }
    this.state = state < 7 ? 8 : 11
    return this.lengthOf(REP_LENGTH, position)
  }

  private lengthOf(table: number, position: number): number {
    if (this.bit(table) === 0) return 2 + this.tree(table + 2 + position * 8, 3)
    const middle = table + 2 + POSITIONS * 8
    if (this.bit(table + 1) === 0) return 10 + this.tree(middle + position * 8, 3)
    return 18 + this.tree(middle + POSITIONS * 8, 8)
  }

  private distance(length: number): number {
    const slot = this.tree(DISTANCE_SLOT + Math.min(length - 2, 3) * 64, 6)
    if (slot < 4) return slot
    const directBits = (slot >>> 1) - 1
    const high = (2 | (slot & 1)) * 2 ** directBits
    if (slot < 14) return high + this.reverseTree(DISTANCE_SPECIAL + high - slot, directBits)
    const middle = this.direct(directBits - ALIGN_BITS) * (1 << ALIGN_BITS)
    return high + middle + this.reverseTree(DISTANCE_ALIGN, ALIGN_BITS)
  }

  private copyMatch(length: number, end: number): void {
    this.assertReaches()
    const { target, done } = this
    const from = done - this.rep0 - 1
    if (length > end - done) throw tooLong()
    if (length <= this.rep0) target.copyWithin(done, from, from + length)
    else for (let i = 0; i < length; i++) target[done + i] = target[from + i] as number
    this.done = done + length
  }

  private assertReaches(): void {
    if (this.rep0 < this.done - this.start && this.rep0 < this.dictionarySize) return
    throw new RangeError('an LZMA match reaches back too far')
  }

  private tree(table: number, bits: number): number {
    let symbol = 1
    for (let i = 0; i < bits; i++) symbol = (symbol << 1) | this.bit(table + symbol)
    return symbol - (1 << bits)
  }

  private reverseTree(table: number, bits: number): number {
    let node = 1
    let symbol = 0
    for (let i = 0; i < bits; i++) {
      const bit = this.bit(table + node)
      node = (node << 1) | bit
      symbol |= bit << i
    }
    return symbol
  }

  /** Bits of even probability. */
  private direct(bits: number): number {
    let value = 0
    for (let i = 0; i < bits; i++) {
      this.range >>>= 1
      const bit = this.code >>> 0 >= this.range ? 1 : 0
      if (bit) this.code = (this.code - this.range) | 0
      value = value * 2 + bit
      if ((this.range & TOP) === 0) this.refill()
    }
    return value
  }

  private bit(index: number): number {
    const probability = this.probabilities[index] as number
    const bound = Math.imul(this.range >>> 11, probability)
    let bit = 0
    if (this.code >>> 0 < bound >>> 0) {
      this.range = bound
      this.probabilities[index] = probability + ((2048 - probability) >>> 5)
    } else {
      this.range = (this.range - bound) | 0
      this.code = (this.code - bound) | 0
      this.probabilities[index] = probability - (probability >>> 5)
      bit = 1
    }
    if ((this.range & TOP) === 0) this.refill()
    return bit
  }

  private refill(): void {
    this.range <<= 8
    // Past the end zeros are read; where the chunk ends is compared when it is decoded.
    this.code = (this.code << 8) | (this.source[this.at++] ?? 0)
  }
}

function tooLong(): RangeError {
  return new RangeError('it holds more than it should')
}
