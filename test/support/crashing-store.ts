import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore, FileStamp, Segment } from '../../lib/io/store.ts'
import type { Random } from './random.ts'

const SECTOR = 512

/**
 * A store on a medium that can lose its power: what was not flushed may then be there sector by sector, or not. It answers
 * after a few turns, so that whatever can overlap does, and never again once the power is gone.
 */
export class CrashingStore implements ByteStore {
  readonly name: string
  readonly writable = true
  private readonly random: Random
  private readonly now: MemoryStore
  private readonly durable: MemoryStore
  private pending: { at: number; bytes: Uint8Array }[] = []
  private dead = false

  constructor(name: string, random: Random, content = new MemoryStore(name)) {
    this.name = name
    this.random = random
    this.durable = copyOf(content)
    this.now = copyOf(content)
  }

  /** The power goes. @param keeps which of the sectors that were not flushed are there @returns what the medium holds then */
  crash(keeps: (at: number) => boolean = () => this.random.chance(0.5)): MemoryStore {
    this.dead = true
    for (const { at, bytes } of this.pending) {
      if (keeps(at)) this.durable.write(at, bytes)
    }
    return this.durable
  }

  /** What is there when nothing is lost. */
  content(): MemoryStore {
    return copyOf(this.now)
  }

  size(): number {
    return this.now.size()
  }

  async read(at: number, target: Uint8Array): Promise<void> {
    await this.wait()
    this.now.read(at, target)
  }

  async write(at: number, source: Uint8Array): Promise<void> {
    const bytes = source.slice()
    await this.wait()
    this.now.write(at, bytes)
    for (let done = 0; done < bytes.length; done += SECTOR) {
      this.pending.push({ at: at + done, bytes: bytes.subarray(done, done + SECTOR) })
    }
  }

  async flush(): Promise<void> {
    const before = this.pending.length
    await this.wait()
    for (const { at, bytes } of this.pending.splice(0, before)) this.durable.write(at, bytes)
    await this.wait()
  }

  truncate(size: number): void {
    this.now.truncate(size)
    this.durable.truncate(size)
  }

  grow(size: number): void {
    this.now.grow(size)
  }

  segment(at: number): Segment {
    return this.now.segment(at)
  }

  stamp(): FileStamp {
    return { size: 0, modified: 1n, changed: 1n, inode: 1n, born: 1n }
  }

  close(): void {}

  private async wait(): Promise<void> {
    for (let turns = this.random.below(3); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
    if (this.dead) await new Promise(() => {})
  }
}

function copyOf(store: MemoryStore): MemoryStore {
  const copy = new MemoryStore(store.name)
  const size = store.size()
  for (let at = 0; at < size; ) {
    const { kind, length } = store.segment(at)
    if (kind === 'data') {
      const bytes = new Uint8Array(length)
      store.read(at, bytes)
      copy.write(at, bytes)
    }
    at += length
  }
  copy.grow(size)
  return copy
}
