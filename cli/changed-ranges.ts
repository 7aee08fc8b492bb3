import { setImmediate as breathe } from 'node:timers/promises'
import { type Answer, formatSize } from '../lib/index.ts'
import type { Call } from './command.ts'
import { errorContent, type Output, printable, SCHEMA_VERSION } from './output.ts'
import { RangeText } from './range-text.ts'
import { standardOutput } from './streams.ts'

/**
 * What changed in a disk, printed as it is told: it may be hundreds of millions of ranges, of which none is kept. So a document
 * begins with them, and says at its end how many there were.
 */
export class ChangedRanges {
  bytes = 0
  count = 0
  private readonly out: Output
  private readonly image: string
  private readonly signal: AbortSignal
  /** undefined: only how many there are */
  private readonly text: RangeText | undefined

  constructor({ out, signal }: Pick<Call<unknown>, 'out' | 'signal'>, image: string, onlyCount: boolean) {
    this.out = out
    this.image = image
    this.signal = signal
    const text = out.json ? new RangeText(',\n{"offset":', ',"length":', '}') : new RangeText('', ' ', '\n')
    this.text = onlyCount ? undefined : text
  }

  /** @param places where a range begins, where it ends, where the next one begins @returns when they are on their way */
  async tell(places: Float64Array): Promise<boolean> {
    if (places.length === 0) return true
    let bytes = 0
    for (let i = 0; i + 1 < places.length; i += 2) bytes += (places[i + 1] as number) - (places[i] as number)
    this.bytes += bytes
    const isFirst = this.count === 0
    this.count += places.length / 2
    if (!this.text) return true
    let skipped = 0
    if (this.out.json && isFirst) {
      await this.begin()
      // No comma before the first one.
      skipped = 1
    }
    for (const piece of this.text.of(places)) {
      await write(piece.subarray(skipped))
      skipped = 0
    }
    // What is written at once is no wait, and signals are only heard in one.
    await breathe()
    this.signal.throwIfAborted()
    return true
  }

  /** Somebody else has counted. */
  add(count: number, bytes: number): void {
    this.count += count
    this.bytes += bytes
  }

  /** Prints what is left to say. */
  async end(answer: Answer): Promise<void> {
    const { out, image, bytes, count, text } = this
    const { full, size, granularity } = answer
    const facts = { full: full !== undefined, reason: full, size, granularity, count, bytes }
    if (!text) out.document({ image, ...facts })
    else if (out.json) {
      if (!out.begun) await this.begin()
      await write(`\n],${JSON.stringify(facts).slice(1)}\n`)
    }
    if (full !== undefined) out.note(`all of the disk counts as changed: ${printable(full)}`)
    if (!text) out.line(`${count} ${count === 1 ? 'range' : 'ranges'}, ${formatSize(bytes)} of ${formatSize(size)}`)
  }

  /** A document that was begun ends with what went wrong. */
  async fail(error: unknown): Promise<void> {
    if (this.out.begun) await write(`\n],"error":${JSON.stringify(errorContent(error))}}\n`)
  }

  private async begin(): Promise<void> {
    this.out.begun = true
    await write(`{"schemaVersion":${SCHEMA_VERSION},"image":${JSON.stringify(this.image)},"extents":[`)
  }
}

/** @returns when the bytes may be written over */
async function write(bytes: string | Uint8Array): Promise<void> {
  await new Promise<void>((resolve) => standardOutput().write(bytes, () => resolve()))
}
