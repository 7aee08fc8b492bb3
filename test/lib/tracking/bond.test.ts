import { describe, expect, test } from 'vitest'
import { runSync, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { type Bond, bondOf, type Subject } from '../../../lib/tracking/binding.ts'
import { type Guard, NO_CONTENT } from '../../../lib/tracking/guard.ts'
import { LIMIT, PAGE, type State, sealed, superblock } from '../../../lib/tracking/layout.ts'
import { bindRecord, copyRecord, leaveRecord } from '../../../lib/tracking/moving.ts'
import { anew, withConsumer, withShrink } from '../../../lib/tracking/next-facts.ts'
import { type Facts, NO_IDENTITY, Superblock } from '../../../lib/tracking/superblock.ts'
import { refusal } from '../../support/refusal.ts'
import { withoutHoles } from '../../support/stores.ts'

const STAMP = { size: 1, modified: 2n, changed: 3n, inode: 4n, born: 5n }
const OWN = { size: 9, modified: 8n, changed: 7n, inode: 6n, born: 5n }
const [CONTENT, NEXT, OTHER] = [7, 8, 9].map((byte) => new Uint8Array(32).fill(byte)) as [
  Uint8Array,
  Uint8Array,
  Uint8Array,
]

const GUARD: Guard = { id: '0123abcd', granularity: 65_536, size: 1000, content: CONTENT }

const FACTS: Facts = {
  trackId: '00112233-4455-6677-8899-aabbccddeeff',
  granularity: 65_536,
  state: 'clean',
  epoch: 7,
  firstEpoch: 3,
  shrinks: [{ epoch: 4, size: 500 }],
  diskSize: 1000,
  began: 12,
  stamp: STAMP,
  content: CONTENT,
  next: NEXT,
  own: { inode: OWN.inode, born: OWN.born },
  consumers: [{ name: 'nightly', epoch: 5, size: 1000, at: 99 }],
  required: true,
  reason: 'tracking has begun since',
  guard: GUARD,
}

const SUBJECT: Subject = { size: 1000, stamp: STAMP, content: CONTENT, next: NEXT, noticesWriters: true }

describe('a record of changes tells', () => {
  const bond = (facts: Partial<Facts>, subject: Partial<Subject>, own: typeof OWN | undefined = OWN): Bond =>
    runSync(bondOf({ ...FACTS, guard: undefined, ...facts }, { ...SUBJECT, ...subject }, own))

  test('all, where nobody has written since', () => {
    expect(bond({}, {})).toEqual({ kind: 'same' })
    // Where the system keeps no time of a change of the file itself.
    const { changed: _, ...plain } = STAMP
    expect(bond({ stamp: plain }, { stamp: plain })).toEqual({ kind: 'same' })
  })

  const open: Partial<Facts> = { state: 'open' }
  test.each<[string, Partial<Facts>, Partial<Subject>]>([
    ['with the content from before', open, {}],
    ['with the content that writing makes of it', open, { content: NEXT, stamp: { ...STAMP, modified: 99n } }],
  ])('all but what its intents name, where we were cut short %s', (_, facts, subject) => {
    expect(bond(facts, subject)).toEqual({ kind: 'interrupted' })
  })

  test.each<[string, Partial<Facts>, Partial<Subject>, string]>([
    ['a file without times', {}, { stamp: undefined }, 'no times'],
    ['a copy of the record', { own: { inode: 1n, born: 5n } }, {}, 'is a copy'],
    ['a record that was brought back', { own: { inode: 6n, born: 1n } }, {}, 'is a copy'],
    ['a record that lost changes', { state: 'lost', reason: 'for a test' }, {}, 'for a test'],
    ['a disk that went on elsewhere', { state: 'moved', reason: 'it moved' }, {}, 'it moved'],
    ['another image', {}, { stamp: { ...STAMP, inode: 44n } }, 'another file'],
    ['an image of the same number, born later', {}, { stamp: { ...STAMP, born: 44n } }, 'another file'],
    ['an image that was written to', {}, { stamp: { ...STAMP, modified: 44n } }, 'another program wrote'],
    ['an image whose time was set back', {}, { stamp: { ...STAMP, changed: 44n } }, 'another program wrote'],
    ['an image with another content', {}, { content: OTHER }, 'another program wrote'],
    ['a disk of another size', {}, { size: 999 }, 'another program wrote'],
    [
      'a writer that was cut short, and another after it',
      open,
      { content: OTHER, stamp: { ...STAMP, size: 2 } },
      'and then another program wrote',
    ],
    [
      'a writer that was cut short, in a format that does not tell',
      open,
      { noticesWriters: false, stamp: { ...STAMP, size: 2 } },
      'the format does not tell',
    ],
    [
      'a writer that was cut short, of a content that nothing tells',
      { ...open, content: NO_IDENTITY },
      { content: NO_IDENTITY, stamp: { ...STAMP, size: 2 } },
      'and then another program wrote',
    ],
    ['an image that was not known', { ...open, stamp: undefined }, { content: OTHER }, 'and then another program'],
  ])('nothing of %s', (_, facts, subject, why) => {
    expect(bond(facts, subject)).toEqual({ kind: 'broken', why: expect.stringContaining(why) })
  })

  test('nothing where it has no times itself', () => {
    expect(runSync(bondOf(FACTS, SUBJECT, undefined))).toMatchObject({ kind: 'broken' })
  })

  describe('what others wrote, by the guard of the image', () => {
    const overtaken = (changed: string | { offset: number; length: number }[], content = CONTENT) => ({
      content,
      *changed() {
        return yield* settle(changed)
      },
    })
    const written: Partial<Subject> = { content: OTHER, stamp: { ...STAMP, modified: 99n } }

    test('where that was begun with the content from before', () => {
      const changed = [{ offset: 0, length: 65_536 }]
      expect(bond({ guard: GUARD }, { ...written, overtaken: overtaken(changed) })).toEqual({
        kind: 'guarded',
        changed,
      })
    })

    test.each<[string, Guard, Partial<Subject>, string]>([
      ['was not begun', { ...GUARD, content: NO_CONTENT }, { overtaken: overtaken([]) }, 'it was not begun'],
      ['was ignored', GUARD, {}, 'the program did not keep to the format'],
      ['is of another content', GUARD, { overtaken: overtaken([], OTHER) }, 'it was begun with another content'],
      ['is of a larger disk', GUARD, { overtaken: overtaken([]), size: 999 }, 'the disk was cut off'],
      ['says so itself', GUARD, { overtaken: overtaken('bits are missing') }, 'bits are missing'],
    ])('but not where that %s', (_, guard, subject, why) => {
      expect(bond({ guard }, { ...written, ...subject })).toEqual({
        kind: 'broken',
        why: `another program wrote to the image, and vdisk-guard-0123abcd does not tell what: ${why}`,
      })
    })
  })
})

/** A sidecar with both copies of its superblock. */
function sidecar(facts: Partial<Facts> = {}): MemoryStore {
  const store = new MemoryStore('disk.vdisk-track')
  const block = Superblock.new(store, { ...FACTS, ...facts })
  runSync(block.write({ reason: 'older' }))
  runSync(block.write({ reason: 'newer' }))
  return store
}

const reasonIn = (store: MemoryStore): string => runSync(Superblock.open(store)).facts.reason

describe('of the two copies of a superblock', () => {
  test('the later counts, and all that was written is read', () => {
    expect(runSync(Superblock.open(sidecar())).facts).toEqual({ ...FACTS, reason: 'newer' })
    const bare = { guard: undefined, stamp: undefined, consumers: [], shrinks: [], required: false } as const
    expect(runSync(Superblock.open(sidecar(bare))).facts).toEqual({ ...FACTS, ...bare, reason: 'newer' })
    // A file of 1970 is one.
    const old = { ...STAMP, modified: 0n }
    expect(runSync(Superblock.open(sidecar({ stamp: old }))).facts.stamp).toEqual(old)
  })

  test('the earlier counts where the later is torn; without either there is none', async () => {
    const store = sidecar()
    store.write(PAGE + 300, new Uint8Array([1]))
    expect(reasonIn(store)).toBe('older')
    store.write(300, new Uint8Array([1]))
    expect(await refusal(async () => reasonIn(store))).toMatchObject({
      code: 'CORRUPT',
      where: { file: 'disk.vdisk-track', structure: 'tracking superblock' },
    })
    const short = sidecar()
    short.truncate(2 * PAGE - 1)
    expect(reasonIn(short)).toBe('older')
  })

  test('one with an impossible number counts for nothing, though its checksum is right', () => {
    const changes: Partial<Record<string, number>>[] = [
      { state: 4 },
      { granularity: 2048 },
      { granularity: LIMIT.granularity.most * 2 },
      { granularity: 65_537 },
      { firstEpoch: 0 },
      { epoch: 2 },
      { diskSize: LIMIT.disk + 1 },
      { shrinkCount: LIMIT.shrinks + 1 },
      { consumerCount: LIMIT.consumers + 1 },
      { reasonLength: LIMIT.reason + 1 },
      { guardGranularity: 512 },
      { guardGranularity: 70_000 },
    ]
    for (const change of changes) {
      const store = sidecar()
      const page = new Uint8Array(PAGE)
      store.read(PAGE, page)
      const lying = superblock.encode({ ...superblock.decode(page), ...change })
      store.write(PAGE, sealed(lying, superblock.offsetOf('checksum')))
      expect(reasonIn(store), JSON.stringify(change)).toBe('older')
    }
  })

  test('one of a later version is not guessed at', async () => {
    const store = sidecar()
    const page = new Uint8Array(PAGE)
    store.read(PAGE, page)
    const later = superblock.encode({ ...superblock.decode(page), version: 2 })
    store.write(PAGE, sealed(later, superblock.offsetOf('checksum')))
    expect(await refusal(async () => reasonIn(store))).toMatchObject({
      code: 'UNSUPPORTED',
      where: { at: superblock.offsetOf('version') },
    })
  })
})

describe('a record that moves with its disk', () => {
  test.each(['sparse', 'dense'])(
    'is copied, and believed only once it is bound; the one before never again (%s)',
    (kind) => {
      const from = sidecar()
      from.write(128 << 20, new Uint8Array(5000).fill(5))
      const to = Object.assign(new MemoryStore('other.vdisk-track'), { stamp: () => OWN })
      runSync(copyRecord(kind === 'sparse' ? from : withoutHoles(from), to, 'it is copied'))
      const state = (store: MemoryStore): [State, string, string] => {
        const { facts } = runSync(Superblock.open(store))
        return [facts.state, facts.reason, facts.trackId]
      }
      expect(state(to)).toEqual(['lost', 'it is copied', FACTS.trackId])
      expect(runSync(Superblock.open(to)).facts).toMatchObject({ own: { inode: 6n, born: 5n }, guard: undefined })
      const counters = new Uint8Array(5000)
      to.read(128 << 20, counters)
      expect(counters.every((byte) => byte === 5)).toBe(true)
      runSync(leaveRecord(from, 'it is elsewhere'))
      expect(state(from)).toEqual(['moved', 'it is elsewhere', expect.not.stringContaining(FACTS.trackId)])
      expect(from.size()).toBe(2 * PAGE)
      runSync(bindRecord(to, SUBJECT, 'it is here'))
      expect(state(to)).toEqual(['clean', 'it is here', FACTS.trackId])
    },
  )

  test('to a medium without times is bound to none', () => {
    const to = new MemoryStore('other.vdisk-track')
    runSync(copyRecord(sidecar(), to, 'it is copied'))
    expect(runSync(Superblock.open(to)).facts.own).toEqual({ inode: 0n, born: 0n })
  })
})

describe('what a record says next', () => {
  test('of consumers: the latest word of each, and no more than have room', async () => {
    const one = { name: 'nightly', epoch: 9, size: 5, at: 1 }
    expect(withConsumer(FACTS.consumers, one)).toEqual([one])
    const many = Array.from({ length: LIMIT.consumers }, (_, i) => ({ ...one, name: `c${i}` }))
    expect((await refusal(async () => withConsumer(many, one))).code).toBe('LIMIT_EXCEEDED')
    expect(withConsumer(many, { ...one, name: 'c3' })).toHaveLength(LIMIT.consumers)
  })

  test('of shrinkings: those that a later one does not outdo, and where they are too many, more than there were', () => {
    expect(withShrink([{ epoch: 1, size: 500 }], { epoch: 2, size: 400 })).toEqual([{ epoch: 2, size: 400 }])
    const rising = Array.from({ length: LIMIT.shrinks }, (_, i) => ({ epoch: i + 1, size: 100 * (i + 1) }))
    const kept = withShrink(rising, { epoch: 99, size: 10_000 })
    expect(kept).toHaveLength(LIMIT.shrinks)
    expect(kept.slice(0, 2)).toEqual([
      { epoch: 2, size: 100 },
      { epoch: 3, size: 300 },
    ])
    expect(kept.at(-1)).toEqual({ epoch: 99, size: 10_000 })
  })

  test('anew: other tokens, later epochs, and a guard that has to be begun', () => {
    expect(anew(FACTS, 'why', 5)).toEqual({
      trackId: expect.not.stringContaining(FACTS.trackId),
      epoch: 8,
      firstEpoch: 8,
      shrinks: [],
      began: 5,
      reason: 'why',
      guard: { ...GUARD, content: NO_CONTENT },
    })
    expect(anew({ ...FACTS, guard: undefined }, 'why', 5).guard).toBeUndefined()
  })
})
