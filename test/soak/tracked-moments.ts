import { changesSince, checkpoint, enableTracking } from '../../lib/index.ts'

const GRANULE = 65536

/** Moments that are remembered at most: the oldest go. */
const MOST = 6

interface Moment {
  readonly token: string
  readonly content: Uint8Array
}

/** What a disk was at some moments, and the tokens of these: what changed since must be told, whatever was killed meanwhile. */
export class TrackedMoments {
  private readonly image: string
  private readonly format: string
  private readonly moments: Moment[] = []

  private constructor(image: string, format: string) {
    this.image = image
    this.format = format
  }

  static async begin(image: string, format: string, content: Uint8Array): Promise<TrackedMoments> {
    const moments = new TrackedMoments(image, format)
    const token = await enableTracking(image, { format, granularity: GRANULE })
    moments.moments.push({ token, content })
    return moments
  }

  /**
   * Asks since every moment, while nobody has the disk open, and remembers the present one.
   *
   * @param killed its server was: in a format that does not tell who wrote to it, all may count as changed then
   * @throws Error if a change is not told, or nobody knows any more what changed
   */
  async judge(content: Uint8Array, killed: boolean): Promise<void> {
    const mayForget = killed && this.format === 'raw'
    for (const { token, content: before } of this.moments) {
      const told = new Set<number>()
      const visit = ({ offset, length }: { offset: number; length: number }): void => {
        for (let at = offset; at < offset + length; at += GRANULE) told.add(at)
      }
      const { full } = await changesSince(this.image, token, { format: this.format, visit })
      if (full !== undefined && !mayForget) throw new Error(`since ${token} all counts as changed: ${full}`)
      for (let at = 0; at < content.length; at += GRANULE) {
        const same = Buffer.compare(content.subarray(at, at + GRANULE), before.subarray(at, at + GRANULE)) === 0
        if (!same && !told.has(at)) throw new Error(`a change at ${at} since ${token} is not told`)
      }
    }
    if (mayForget) this.moments.length = 0
    const token = await checkpoint(this.image, { format: this.format })
    this.moments.push({ token, content })
    if (this.moments.length > MOST) this.moments.splice(1, 1)
  }
}
