import type { Chain } from '../chain/chain.ts'
import type { ExchangeableDevice } from '../chain/exchangeable-device.ts'
import type { Moment, MomentOptions } from '../chain/moment.ts'
import { promised, settle } from '../io/io.ts'
import { takeMoment } from '../jobs/moment.ts'
import { changeMapOf } from '../jobs/tracking.ts'
import type { Answer } from '../tracking/change-map.ts'
import { formatToken, type Token } from '../tracking/token.ts'
import { type BackupSource, changesOf } from './source.ts'

/**
 * A disk that is open and goes on being used, as it is at this moment.
 *
 * @param file the image that takes what is written; absolute
 */
export async function takeSource(
  disk: ExchangeableDevice<Chain>,
  file: string,
  options: MomentOptions = {},
): Promise<BackupSource> {
  const notes = [...disk.current.notes]
  const { moment, token } = await promised(disk.use((chain) => takeMoment(chain, options)))
  return new Live(disk, file, moment, token, notes)
}

class Live implements BackupSource {
  readonly file: string
  readonly device: Moment
  readonly token: string | undefined
  readonly at = Date.now()
  readonly notes: readonly string[]
  private readonly disk: ExchangeableDevice<Chain>
  private readonly now: Token | undefined

  constructor(
    disk: ExchangeableDevice<Chain>,
    file: string,
    moment: Moment,
    now: Token | undefined,
    notes: readonly string[],
  ) {
    this.disk = disk
    this.file = file
    this.device = moment
    this.now = now
    this.token = now && formatToken(now)
    this.notes = notes
  }

  /** What changed since the moment is told as well. */
  async changes(since: string | undefined, visit: (offset: number, length: number) => void): Promise<Answer> {
    const { size } = this.device
    const within = (offset: number, length: number): void => {
      if (offset < size) visit(offset, Math.min(length, size - offset))
    }
    const answer = await promised(
      this.disk.use((chain) => settle(changesOf(changeMapOf(chain), chain.size, since, within))),
    )
    // The record speaks of the disk as it is: nobody knows what happened to an end that was cut off since.
    if (answer.size < size) visit(answer.size, size - answer.size)
    return { ...answer, size }
  }

  async remember(consumer: string): Promise<void> {
    const { now } = this
    if (!now) return
    await promised(
      this.disk.use(function* (chain) {
        const map = changeMapOf(chain)
        if (map) yield* map.remember(consumer, now)
      }),
    )
  }

  release(offset: number, length: number): void {
    this.device.release(offset, length)
  }

  async close(): Promise<void> {
    this.device.close()
  }
}
