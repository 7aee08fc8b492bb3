import { bits64, bytes, struct, u32 } from '../../bytes/struct.ts'

/** Headers of LZFSE blocks. [LZFSE, "lzfse_internal.h", names of fields as there] */

/** How many symbols each table counts: lengths of literals, of matches, distances, literals; and how many states it has. */
export const TABLES = [
  { symbols: 20, states: 64 },
  { symbols: 20, states: 64 },
  { symbols: 64, states: 256 },
  { symbols: 256, states: 1024 },
] as const
const MOST_LITERALS = 40_000
const MOST_MATCHES = 10_000

/** Header with packed fields and tables, little-endian; the tables follow. */
const packedHeader = struct(
  'LZFSE block header',
  { size: 32, order: 'little' },
  {
    rawLength: u32(4), // bytes that it unpacks to
    literals: bits64(8), // 20 bits n_literals, 20 n_literal_payload_bytes, 20 n_matches, 3 literal_bits
    states: bits64(16), // four times 10 bits literal_state, 20 n_lmd_payload_bytes, 3 lmd_bits
    lengths: bits64(24), // 32 bits header_size, 10 l_state, 10 m_state, 10 d_state
  },
)
/** Header with everything as it is, little-endian. */
const plainHeader = struct(
  'LZFSE block header',
  { size: 50 + 2 * 360, order: 'little' },
  {
    literalCount: u32(12),
    matchCount: u32(16),
    literalBytes: u32(20),
    matchBytes: u32(24),
    literalBits: u32(28), // as a signed number
    literalStates: bytes(32, 8),
    matchBits: u32(40), // as a signed number
    matchStates: bytes(44, 6),
    counts: bytes(50, 2 * 360),
  },
)

export interface LzfseHeader {
  /** bytes of the header itself */
  readonly length: number
  readonly literalCount: number
  readonly matchCount: number
  /** bytes of the two streams, literals first */
  readonly literalBytes: number
  readonly matchBytes: number
  /** bits of their last bytes that do not belong to them */
  readonly literalUnused: number
  readonly matchUnused: number
  /** where decoding begins */
  readonly literalStates: readonly number[]
  readonly matchStates: readonly [number, number, number]
  /** how often each symbol occurs, by table */
  readonly counts: readonly Uint16Array[]
}

/** @throws RangeError if it is damaged */
export function readPackedHeader(block: Uint8Array): LzfseHeader {
  if (block.length < packedHeader.size) throw new RangeError('it ends in the middle of an LZFSE header')
  const { literals, states, lengths } = packedHeader.decode(block)
  const length = field(lengths, 0, 32)
  if (length < packedHeader.size || length > block.length) throw new RangeError('an LZFSE header is too long')
  return checked({
    length,
    literalCount: field(literals, 0, 20),
    literalBytes: field(literals, 20, 20),
    matchCount: field(literals, 40, 20),
    literalUnused: 7 - field(literals, 60, 3),
    literalStates: [0, 10, 20, 30].map((at) => field(states, at, 10)),
    matchBytes: field(states, 40, 20),
    matchUnused: 7 - field(states, 60, 3),
    matchStates: [field(lengths, 32, 10), field(lengths, 42, 10), field(lengths, 52, 10)],
    counts: unpackCounts(block.subarray(packedHeader.size, length)),
  })
}

/** @throws RangeError if it is damaged */
export function readPlainHeader(block: Uint8Array): LzfseHeader {
  if (block.length < plainHeader.size) throw new RangeError('it ends in the middle of an LZFSE header')
  const { literalBits, matchBits, literalStates, matchStates, counts, ...header } = plainHeader.decode(block)
  const [l = 0, m = 0, d = 0] = wordsOf(matchStates)
  return checked({
    ...header,
    length: plainHeader.size,
    literalUnused: -literalBits >>> 0,
    matchUnused: -matchBits >>> 0,
    literalStates: [...wordsOf(literalStates)],
    matchStates: [l, m, d],
    counts: byTable(wordsOf(counts)),
  })
}

function checked(header: LzfseHeader): LzfseHeader {
  const [lengths, matches, distances, literals] = TABLES
  const [l, m, d] = header.matchStates
  const isSane =
    header.literalCount <= MOST_LITERALS &&
    header.literalCount % 4 === 0 &&
    header.matchCount <= MOST_MATCHES &&
    header.literalUnused <= 7 &&
    header.matchUnused <= 7 &&
    header.literalStates.every((state) => state < literals.states) &&
    l < lengths.states &&
    m < matches.states &&
    d < distances.states
  if (!isSane) throw new RangeError('an LZFSE header cannot be')
  return header
}

function field(word: bigint, at: number, length: number): number {
  return Number((word >> BigInt(at)) & ((1n << BigInt(length)) - 1n))
}

function wordsOf(raw: Uint8Array): Uint16Array {
  return Uint16Array.from(
    { length: raw.length / 2 },
    (_, i) => (raw[2 * i] as number) | ((raw[2 * i + 1] as number) << 8),
  )
}

function byTable(all: Uint16Array): Uint16Array[] {
  let at = 0
  return TABLES.map(({ symbols }) => {
    at += symbols
    return all.subarray(at - symbols, at)
  })
}

/**
 * Counts of all tables, lowest bits first: 00: 0, 10: 1, 001 and 101: 2 and 3, ..011: 4 to 7, ....0111: 8 to 23,
 * ..........1111: 24 and more.
 */
function unpackCounts(packed: Uint8Array): Uint16Array[] {
  const all = new Uint16Array(TABLES.reduce((sum, { symbols }) => sum + symbols, 0))
  if (packed.length === 0) return byTable(all)
  let at = 0
  let held = 0
  let heldBits = 0
  for (let i = 0; i < all.length; i++) {
    while (heldBits < 14 && at < packed.length) {
      held |= (packed[at++] as number) << heldBits
      heldBits += 8
    }
    const [count, taken] = countOf(held)
    if (taken > heldBits) throw new RangeError('the tables of an LZFSE block are cut off')
    all[i] = count
    held >>>= taken
    heldBits -= taken
  }
  if (heldBits >= 8 || at < packed.length) throw new RangeError('the tables of an LZFSE block are too long')
  return byTable(all)
}

/** The count in the lowest bits, and how many bits it takes. */
function countOf(bits: number): [count: number, taken: number] {
  if ((bits & 1) === 0) return [(bits >>> 1) & 1, 2]
  if ((bits & 2) === 0) return [2 + ((bits >>> 2) & 1), 3]
  if ((bits & 4) === 0) return [4 + ((bits >>> 3) & 3), 5]
  if ((bits & 8) === 0) return [8 + ((bits >>> 4) & 15), 8]
  return [24 + ((bits >>> 4) & 1023), 14]
}
