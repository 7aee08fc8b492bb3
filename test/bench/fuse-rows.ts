import type { Engine, Load } from './fio.ts'
import { fio, readByDd, writeByDd } from './fio.ts'
import { READ, SIZE, WRITTEN } from './fuse-images.ts'

/** How everything is measured. */
export interface Conditions {
  readonly rounds: number
  /** of one run of fio */
  readonly seconds: number
  /** for several requests at once */
  readonly engine: Engine
  /** the amounts that the goals speak of, where they take long */
  readonly full: boolean
}

/** One way to use a mounted disk. */
export interface Use {
  readonly id: string
  readonly what: string
  /** times the peer's speed */
  readonly goal: number
  readonly show: (bytesPerSecond: number) => string
  /** @returns bytes in a second */
  run(file: string, conditions: Conditions, round: number): number
}

const inRequests = (rate: number): string => `${(rate / 4096 / 1000).toFixed(1)}k/s`
const inBytes = (rate: number): string => `${(rate / 2 ** 20).toFixed(0)} MiB/s`

function byFio(id: string, what: string, goal: number, load: Load): Use {
  return {
    id,
    what,
    goal,
    show: load.block === 4096 ? inRequests : inBytes,
    run: (file, { seconds, engine }, round) => fio(file, { ...load, seconds, seed: round + 1 }, engine),
  }
}

export const randomReadsDeep = byFio('read-16', 'random reads of 4 KiB, 16 deep', 2, {
  rw: 'randread',
  block: 4096,
  depth: 16,
  ...READ,
})

export const randomReads = byFio('read-1', 'random reads of 4 KiB, 1 deep', 1.3, {
  rw: 'randread',
  block: 4096,
  depth: 1,
  ...READ,
})

export const overwrites = byFio('overwrite-16', 'random overwrites of 4 KiB, 16 deep', 1.3, {
  rw: 'randwrite',
  block: 4096,
  depth: 16,
  ...WRITTEN,
})

export const sequentialReads = byFio('sequential-read', 'sequential reads of 1 MiB', 1.2, {
  rw: 'read',
  block: 1 << 20,
  depth: 1,
  size: SIZE,
})

export const sequentialWrites = byFio('sequential-write', 'sequential writes of 1 MiB', 1.2, {
  rw: 'write',
  block: 1 << 20,
  depth: 1,
  ...WRITTEN,
})

export const copyOut: Use = {
  id: 'dd-read',
  what: 'dd reads 1 GiB, through the cache of the mount',
  goal: 1.2,
  show: inBytes,
  run: (file) => readByDd(file, SIZE),
}

export const copyIn: Use = {
  id: 'dd-write',
  what: 'dd writes 256 MiB, and waits until they are durable',
  goal: 1.2,
  show: inBytes,
  run: (file) => writeByDd(file, WRITTEN.size),
}

export const readingUses = [randomReadsDeep, randomReads, sequentialReads, copyOut]
export const uses = [randomReadsDeep, randomReads, overwrites, sequentialReads, sequentialWrites, copyOut, copyIn]
