import type { Chain } from '../../lib/chain/chain.ts'
import { driverNamed } from '../../lib/chain/probe.ts'
import { isWritable, type Layer, type WritableLayer } from '../../lib/contracts/layer.ts'
import { type Repaired, RepairReport } from '../../lib/contracts/repair.ts'
import { drivers } from '../../lib/formats/registry.ts'
import type { Io } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { anyRange, KnownContent } from './known-content.ts'
import type { Frozen } from './overlay-store.ts'
import type { Reader, Shown } from './reader.ts'
import { Subject } from './subject.ts'
import { Violation, wordsOf } from './trial.ts'

/** Disks are not made larger than this: what grows is tables, and they are written. */
const LARGEST = 64 << 20

/**
 * Changes an image, closes it, opens it anew: what was written is there, nothing else has changed, and nothing is
 * wrong that was right before.
 */
export async function writeAndVerify(reader: Reader, before: Shown | undefined): Promise<void> {
  const { trial, random } = reader
  const { chain, error: refusal } = await reader.tryOpen('write')
  if (!chain) {
    const mayRefuse = refusal?.code !== 'CORRUPT' || before?.errors === undefined || before.errors.size > 0
    if (!mayRefuse) throw new Violation('unsound', `a check finds nothing, yet: ${wordsOf(refusal.message)}`)
    return
  }
  const writing = new Writing(reader, chain, before)
  for (let left = 1 + random.below(6); left > 0; left--) await writing.change()
  const { error } = await trial.attempt('close after writing', () => chain.close())
  if (error || !before) return
  const after = await reader.open('read')
  if (!after) throw new Violation('unsound', 'what was written does not open again')
  if (isSound(before)) await verify(reader, after, before, writing)
  await trial.step('close', () => after.close())
}

/**
 * Whether nothing was wrong with an image. Where two parts of a disk share a place, or a count says that data is free,
 * who writes one part changes the other, and only a check would know before.
 */
function isSound(shown: Shown): boolean {
  return shown.errors?.size === 0
}

async function verify(reader: Reader, after: Chain, before: Shown, writing: Writing): Promise<void> {
  await writing.content.verify('the disk', (offset, length) => reader.bytesAt(after, offset, length))
  for (const [id, content] of writing.snapshots) {
    const view = await reader.trial.step('open snapshot', () => after.viewOfSnapshot(id))
    if (view) await content.verify(`snapshot ${id}`, (offset, length) => reader.bytesAt(view, offset, length))
  }
  const errors = await reader.check(after.layers.at(-1) as Layer)
  if (before.errors && errors) assertNoneNew(before.errors, errors, 'writing')
}

/** Mends an image: then less is wrong, what could be read is as it was or told to be in doubt, and twice is once. */
export async function repairAndVerify(
  reader: Reader,
  before: Shown | undefined,
  files: ReadonlyMap<string, Frozen>,
): Promise<void> {
  const driver = driverNamed(reader.format, drivers, 'image')
  const { repair } = driver
  if (!repair) return
  const subject = new Subject(files)
  const report = new RepairReport('all')
  const { error } = await reader.trial.attempt('repair', () => repair.call(driver, subject.image(), report))
  for (const { code } of report.done) reader.trial.notes.add(`mends ${code}`)
  if (error) return
  const chain = await reader.open('read', subject)
  if (!chain) {
    // What showed nothing where its lost parent was shows it again only with that parent, and that may not be there.
    const hasParentAgain = !(await reader.namesParent()) && (await reader.namesParent(subject))
    if (before && !hasParentAgain) throw new Violation('unsound', 'what was repaired does not open any more')
    return
  }
  if (before) {
    for (const { offset, length, snapshot } of report.doubtful) {
      if (snapshot === undefined) before.content.doubt(offset, length)
    }
    if (report.count === report.done.length) {
      await before.content.verify('the repaired disk', (offset, length) => reader.bytesAt(chain, offset, length))
    }
    const errors = await reader.check(chain.layers.at(-1) as Layer)
    if (before.errors && errors) assertNoneNew(before.errors, errors, 'a repair')
  }
  await reader.trial.step('close', () => chain.close())
  const repairAgain = async (): Promise<readonly Repaired[]> => {
    const again = new RepairReport('all')
    const { error } = await reader.trial.attempt('repair again', () => repair.call(driver, subject.image(), again))
    if (error) throw new Violation('unsound', `a second repair fails: ${error.message}`)
    return again.done
  }
  // What is mended first may show what else is wrong, and room is given back once nothing is doubtful any more.
  for (let round = 2; ; round++) {
    const [first] = await repairAgain()
    if (!first) return
    if (round === 4) throw new Violation('unsound', `repairs come to no end: ${first.code} ${first.structure}`)
  }
}

function assertNoneNew(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>, what: string): void {
  for (const [code, count] of after) {
    const known = before.get(code) ?? 0
    if (count > known) throw new Violation('unsound', `after ${what} a check finds ${code}, which it did not before`)
  }
}

/** Changes of an open image, and what it must hold then. */
class Writing {
  content: KnownContent
  /** by id; only of those that must still be as they were */
  readonly snapshots: Map<string, KnownContent>
  private readonly reader: Reader
  private readonly chain: Chain
  private readonly top: WritableLayer
  private made = 0

  constructor(reader: Reader, chain: Chain, before: Shown | undefined) {
    const top = chain.layers.at(-1) as Layer
    if (!isWritable(top)) throw new Violation('wrong', 'what was opened for writing cannot be written')
    this.reader = reader
    this.chain = chain
    this.top = top
    this.content = before?.content.copy() ?? new KnownContent()
    this.snapshots = new Map([...(before?.snapshots ?? [])].map(([id, content]) => [id, content.copy()]))
  }

  async change(): Promise<void> {
    const { random } = this.reader
    const kind = random.below(20)
    if (kind < 9) await this.write()
    else if (kind < 13) await this.erase()
    else if (kind === 13) await this.reader.trial.step('flush', () => this.chain.flush())
    else if (kind === 14) await this.resize()
    else if (kind === 15) await this.pack()
    else if (kind === 16) await this.freeze()
    else if (kind === 17) await this.deleteSnapshot()
    else if (kind === 18) await this.revert()
    else await this.write()
  }

  private async write(): Promise<void> {
    const { random } = this.reader
    if (this.chain.size === 0) return
    const { offset, length } = anyRange(random, this.chain.size, this.chain.granularity)
    const source = patternFor(offset, length, 1 + random.below(255))
    if (await this.did('write', () => this.chain.write(offset, source))) this.content.write(offset, source)
    else this.content.doubt(offset, length)
  }

  private async erase(): Promise<void> {
    const { random } = this.reader
    if (this.chain.size === 0) return
    const range = anyRange(random, this.chain.size, this.chain.granularity)
    const length = random.chance(0.1) ? Math.min(LARGEST, this.chain.size - range.offset) : range.length
    if (await this.did('erase', () => this.chain.erase(range.offset, length))) this.eraseContent(range.offset, length)
    else this.content.doubt(range.offset, length)
  }

  private eraseContent(offset: number, length: number): void {
    if (length <= 65536) this.content.write(offset, new Uint8Array(length))
    else this.content.doubt(offset, length)
  }

  private async resize(): Promise<void> {
    const { random } = this.reader
    const unit = driverNamed(this.reader.format, drivers, 'image').supports.sizeUnit
    const wanted = random.pick([
      this.chain.size + 512 * random.below(100),
      this.chain.size * random.fraction(),
      this.chain.size + this.chain.granularity * random.below(40),
    ])
    const size = Math.max(unit, Math.floor(wanted / 4096) * 4096)
    if (size > Math.max(LARGEST, this.chain.size)) return
    if (!(await this.did('resize', () => this.chain.resize(size)))) return
    this.content.cut(size)
  }

  /** Compressed, where nothing is stored yet; what is there may not be lost. */
  private async pack(): Promise<void> {
    const { packer } = this.top
    if (!packer || this.chain.size < this.chain.granularity) return
    const { granularity, size } = this.chain
    const offset = this.reader.random.below(Math.min(40, Math.floor(size / granularity))) * granularity
    const bytes = patternFor(offset, granularity, 7).fill(3, granularity >> 1)
    const packed = await packer.pack(bytes)
    if (!packed) return
    if (await this.did('pack', () => packer.store(offset, packed))) this.content.write(offset, bytes)
    else this.content.doubt(offset, granularity)
  }

  private async freeze(): Promise<void> {
    const edit = this.top.snapshots?.edit
    if (!edit) return
    const name = `frozen ${this.made++}`
    const content = this.content.copy()
    const info = await this.reader.trial.step('snapshot', () => edit.create(name))
    if (info) this.snapshots.set(info.id, content)
  }

  private async deleteSnapshot(): Promise<void> {
    const { edit, id } = this.anySnapshot()
    if (!edit || id === undefined) return
    this.snapshots.delete(id)
    await this.did('delete snapshot', () => edit.delete(id))
  }

  private async revert(): Promise<void> {
    const { edit, id } = this.anySnapshot()
    if (!edit || id === undefined) return
    const content = this.snapshots.get(id)?.copy() ?? new KnownContent()
    if (await this.did('revert', () => edit.revert(id))) this.content = content
  }

  private anySnapshot() {
    const { snapshots } = this.top
    const found = this.reader.random.pick(snapshots?.list() ?? [])
    return { edit: snapshots?.edit, id: found?.id }
  }

  private async did(what: string, work: () => Io<unknown>): Promise<boolean> {
    return (await this.reader.trial.attempt(what, work)).error === undefined
  }
}
