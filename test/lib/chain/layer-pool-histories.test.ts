import { describe, expect } from 'vitest'
import { type Disk, LayerPool } from '../../../lib/index.ts'
import { patternFor, rangeOf } from '../../model/history.ts'
import type { NaiveDisk } from '../../model/naive-disk.ts'
import { descriptorsOf, TELLS_DESCRIPTORS } from '../../support/descriptors.ts'
import { Family } from '../../support/family.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'

printSeed()

const SIZE = (3 << 20) + 512

/** Who is built upon whom; the formats are in the names. */
const PARENTS: readonly (readonly [string, string | undefined])[] = [
  ['base.raw', undefined],
  ['one.qcow2', 'base.raw'],
  ['two.qcow2', 'base.raw'],
  ['a.qcow2', 'one.qcow2'],
  ['b.qcow2', 'one.qcow2'],
  ['c.qcow2', 'two.qcow2'],
  ['d.qcow2', 'base.raw'],
  ['e.vhdx', 'two.qcow2'],
]
const parentOf = new Map(PARENTS)
const names = PARENTS.map(([name]) => name)
const leaves = names.filter((name) => !PARENTS.some(([, parent]) => parent === name))

interface Opened {
  readonly name: string
  readonly disk: Disk
}

/** What is open in a family, and what happens to it. */
class Household {
  private readonly family: Family
  private readonly random: Random
  private readonly pool = new LayerPool()
  private readonly open: Opened[] = []

  constructor(family: Family, random: Random) {
    this.family = family
    this.random = random
  }

  async step(): Promise<void> {
    const kind = this.random.below(4)
    if (kind === 0) await this.openSome()
    else if (kind === 1) await Promise.all([this.openSome(), this.closeSome(0.5)])
    else if (kind === 2) await this.closeSome(0.5)
    else await this.changeAll()
  }

  async end(): Promise<void> {
    await this.closeSome(1)
    expect(this.pool.held()).toEqual([])
    expect(this.pool.unpacked.held).toBe(0)
  }

  /** Each file has one descriptor if any open disk is built upon it, and each disk its bytes. */
  async expectOrder(): Promise<void> {
    const used = new Set<string>()
    for (const { name } of this.open) {
      for (let at: string | undefined = name; at !== undefined; at = parentOf.get(at)) used.add(at)
    }
    const found = names.map((name) => [name, descriptorsOf(this.family.at(name))])
    expect(Object.fromEntries(found)).toEqual(Object.fromEntries(names.map((name) => [name, used.has(name) ? 1 : 0])))
    for (const { name, disk } of this.open) await this.family.expectSame(disk, name)
  }

  private async openSome(): Promise<void> {
    const { family, random, pool, open } = this
    const free = leaves.filter((name) => !open.some((one) => one.name === name))
    const opening = free
      .filter(() => random.chance(0.5))
      .map(async (name) => ({ name, disk: await family.open(name, { pool, writable: random.chance(0.7) }) }))
    open.push(...(await Promise.all(opening)))
  }

  /** Each is read while it is being closed. */
  private async closeSome(of: number): Promise<void> {
    const { family, random, open } = this
    const leaving = open.filter(() => random.chance(of))
    for (const one of leaving) open.splice(open.indexOf(one), 1)
    await Promise.all(leaving.flatMap(({ name, disk }) => [family.expectSame(disk, name), disk.close()]))
  }

  private async changeAll(): Promise<void> {
    const writers = this.open.filter(({ disk }) => disk.writable)
    await Promise.all(writers.map(({ name, disk }) => this.change(disk, this.family.model(name))))
  }

  private async change(disk: Disk, model: NaiveDisk): Promise<void> {
    const { random } = this
    const { offset, length } = rangeOf({ at: random.fraction(), span: random.fraction() ** 4 * 0.2 }, SIZE)
    const source = patternFor(offset, length, random.below(200))
    model.write(offset, source)
    await disk.write(offset, source)
  }
}

describe.skipIf(!TELLS_DESCRIPTORS)('whatever is opened and closed, in twenty histories', () => {
  randomTest('each file has one descriptor or none, and each disk its bytes', async (random) => {
    const family = new Family(SIZE)
    for (const [name, parent] of PARENTS) await family.make(name, name.slice(name.indexOf('.') + 1), parent)
    for (let i = 0; i < 20; i++) {
      const household = new Household(family, random)
      for (let step = 0; step < 12; step++) {
        await household.step()
        await household.expectOrder()
      }
      await household.end()
    }
  })
})
