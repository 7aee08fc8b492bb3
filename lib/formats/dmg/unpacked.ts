/** What is unpacked of one piece: literals, and matches that repeat what came before. */
export class Unpacked {
  private readonly target: Uint8Array
  private done = 0

  /** @param target what is to be filled exactly */
  constructor(target: Uint8Array) {
    this.target = target
  }

  get length(): number {
    return this.done
  }

  get room(): number {
    return this.target.length - this.done
  }

  /** @throws RangeError if there are not so many bytes, or no room for them */
  literals(source: Uint8Array, at: number, length: number): void {
    if (length > this.room) throw new RangeError('it holds more than it should')
    if (at + length > source.length) throw new RangeError('it ends too early')
    this.target.set(source.subarray(at, at + length), this.done)
    this.done += length
  }

  /** Repeats `length` bytes from `distance` before; the two may overlap. @throws RangeError if there is nothing, or no room */
  match(distance: number, length: number): void {
    if (length > this.room) throw new RangeError('it holds more than it should')
    if (distance < 1 || distance > this.done) throw new RangeError('it repeats what lies before its beginning')
    const { target, done } = this
    if (distance >= length) target.copyWithin(done, done - distance, done - distance + length)
    else for (let i = done; i < done + length; i++) target[i] = target[i - distance] as number
    this.done += length
  }
}
