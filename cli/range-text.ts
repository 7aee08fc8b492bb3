/** Bytes of text that are made at a time. */
const PIECE = 1 << 18

/** Digits of a number at most. */
const DIGITS = 16

/** Digits that are looked up at a time, and the numbers that have no more. */
const GROUP = 4
const GROUPS = 10 ** GROUP
const EIGHT_DIGITS = GROUPS * GROUPS

/** The digits of each number below 10000, with zeros before them, as one word. */
const WORDS = Uint32Array.from({ length: GROUPS }, (_, i) => Buffer.from(String(i).padStart(GROUP, '0')).readUInt32BE())

/**
 * Ranges as text: for each its offset and its length in decimal digits, with the same words around them.
 *
 * There may be hundreds of millions of them. Made of strings they took longer than everything else together.
 */
export class RangeText {
  private readonly bytes = new Uint8Array(PIECE)
  private readonly view = new DataView(this.bytes.buffer)
  private readonly words: readonly [Uint8Array, Uint8Array, Uint8Array]
  /** bytes that a range takes at most; digits are written as whole words */
  private readonly most: number
  /** the last large number less its last eight digits, and what stands before these: places that follow each other have the same */
  private start = 0
  private headDigits = 0
  private headWords: readonly [number, number] = [0, 0]

  /** what stands before the offset, between offset and length, and after that; ASCII */
  constructor(before: string, between: string, after: string) {
    this.words = [Buffer.from(before), Buffer.from(between), Buffer.from(after)]
    this.most = before.length + between.length + after.length + 2 * DIGITS + GROUP
  }

  /** @param places where a range begins, where it ends, where the next one begins @returns pieces; each is good until the next */
  *of(places: Float64Array): Generator<Uint8Array> {
    const [before, between, after] = this.words
    let at = 0
    for (let i = 0; i + 1 < places.length; i += 2) {
      const offset = places[i] as number
      at = this.number(offset, this.say(before, at))
      at = this.number((places[i + 1] as number) - offset, this.say(between, at))
      at = this.say(after, at)
      if (at + this.most <= PIECE) continue
      yield this.bytes.subarray(0, at)
      at = 0
    }
    if (at > 0) yield this.bytes.subarray(0, at)
  }

  /** @returns where it ends */
  private say(word: Uint8Array, at: number): number {
    for (let i = 0; i < word.length; i++) this.bytes[at + i] = word[i] as number
    return at + word.length
  }

  /** @returns where it ends */
  private number(value: number, at: number): number {
    if (value < EIGHT_DIGITS) return this.smallNumber(value, at)
    const { view } = this
    let rest = value - this.start
    if (rest < 0 || rest >= EIGHT_DIGITS) rest = this.takeHead(value, at)
    view.setUint32(at, this.headWords[0])
    view.setUint32(at + GROUP, this.headWords[1])
    const end = at + this.headDigits
    // Numbers that are known to be small are divided in a fraction of the time.
    const high = ((rest | 0) / GROUPS) | 0
    view.setUint32(end, WORDS[high] as number)
    view.setUint32(end + GROUP, WORDS[(rest | 0) - high * GROUPS] as number)
    return end + 2 * GROUP
  }

  /** One of at most eight digits. */
  private smallNumber(value: number, at: number): number {
    const small = value | 0
    if (small < GROUPS) return this.group(small, at)
    const high = (small / GROUPS) | 0
    const end = this.group(high, at)
    this.view.setUint32(end, WORDS[small - high * GROUPS] as number)
    return end + GROUP
  }

  private group(value: number, at: number): number {
    const digits = value < 10 ? 1 : value < 100 ? 2 : value < 1000 ? 3 : GROUP
    this.view.setUint32(at, (WORDS[value] as number) << ((GROUP - digits) * 8))
    return at + digits
  }

  /** @param at where there is room to write its head once @returns what is left of a number without it */
  private takeHead(value: number, at: number): number {
    const head = Math.floor(value / EIGHT_DIGITS)
    this.start = head * EIGHT_DIGITS
    this.headDigits = this.smallNumber(head, at) - at
    this.headWords = [this.view.getUint32(at), this.view.getUint32(at + GROUP)]
    return value - this.start
  }
}
