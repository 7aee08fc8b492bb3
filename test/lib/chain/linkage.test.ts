import { describe, expect, test } from 'vitest'
import { judgeLink, stampOf } from '../../../lib/chain/linkage.ts'
import type { Identity, ParentLink } from '../../../lib/contracts/identity.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { standInGuid } from '../../../lib/contracts/stand-in.ts'
import { just, promised } from '../../../lib/io/io.ts'
import type { ByteStore, FileStamp } from '../../../lib/io/store.ts'

const STAMP: FileStamp = { size: 100, modified: 5n, inode: 7n, born: 1n }
const counted = (value: string, current = true): Identity => ({ kind: 'generation', value, current })
const guid = (value: string): Identity => ({ kind: 'guid', value, current: true })

interface Parent {
  readonly identity?: Identity
  readonly size?: number
  readonly stamp?: FileStamp
}

async function judge(link: Partial<ParentLink>, parent: Parent, sample?: string): Promise<string> {
  const child = {
    parent: { references: ['p'], format: 'raw', expects: [], record: undefined, merging: false, ...link },
  }
  const below = { identity: parent.identity, size: parent.size ?? 1000, store: { stamp: () => parent.stamp ?? STAMP } }
  const verdict = await promised(
    judgeLink(
      child as unknown as Layer,
      below as unknown as Layer,
      sample === undefined ? undefined : () => just(sample),
    ),
  )
  return verdict.reason === undefined ? verdict.level : `${verdict.level} ${verdict.reason}`
}

const record = { size: 1000, stamp: STAMP, sample: 'aa' }

describe('a child that expects an identity', () => {
  const expects = [counted('disk/3')]
  test.each<[string, Partial<ParentLink>, Parent, string]>([
    ['finds it', { expects }, { identity: counted('disk/3') }, 'verified'],
    ['finds a later state', { expects }, { identity: counted('disk/4') }, 'mismatch PARENT_MODIFIED'],
    ['finds an earlier state', { expects }, { identity: counted('disk/2') }, 'mismatch PARENT_MODIFIED'],
    ['finds another disk', { expects }, { identity: counted('other/3') }, 'mismatch PARENT_ID_MISMATCH'],
    ['finds none', { expects }, {}, 'mismatch PARENT_ID_MISMATCH'],
    ['finds one of another kind', { expects: [guid('x')] }, { identity: counted('x') }, 'mismatch PARENT_ID_MISMATCH'],
    ['finds another GUID', { expects: [guid('x')] }, { identity: guid('y') }, 'mismatch PARENT_ID_MISMATCH'],
    ['finds the second of two', { expects: [guid('x'), guid('y')] }, { identity: guid('y') }, 'verified'],
    ['finds it out of date', { expects }, { identity: counted('disk/3', false) }, 'mismatch PARENT_MODIFIED'],
    [
      'was made when it was out of date already',
      { expects, record },
      { identity: counted('disk/3', false) },
      'consistent',
    ],
    [
      'was made when it was out of date, and another wrote since',
      { expects, record },
      { identity: counted('disk/3', false), stamp: { ...STAMP, modified: 6n } },
      'mismatch PARENT_MODIFIED',
    ],
    [
      'finds it longer',
      { expects, record },
      { identity: counted('disk/3'), size: 2000 },
      'mismatch PARENT_SIZE_MISMATCH',
    ],
    ['is being merged', { expects, merging: true }, { identity: counted('disk/3') }, 'consistent MERGE_UNDER_WAY'],
    [
      'is being merged, but not into this',
      { expects, merging: true },
      { identity: counted('disk/9') },
      'mismatch PARENT_MODIFIED',
    ],
  ])('%s', async (_, link, parent, wanted) => {
    expect(await judge(link, parent)).toBe(wanted)
  })
})

describe('a child that knows its parent by what it was', () => {
  test.each<[string, Partial<ParentLink>, Parent, string | undefined, string]>([
    ['and knows nothing', {}, {}, 'aa', 'unverifiable IDENTITY_UNVERIFIABLE'],
    ['finds the file untouched', { record }, {}, 'bb', 'consistent'],
    ['finds it written to', { record }, { stamp: { ...STAMP, modified: 6n } }, 'aa', 'mismatch PARENT_MODIFIED'],
    ['finds the file longer', { record }, { stamp: { ...STAMP, size: 101 } }, 'aa', 'mismatch PARENT_MODIFIED'],
    ['finds the disk longer', { record }, { size: 1001 }, 'aa', 'mismatch PARENT_SIZE_MISMATCH'],
    ['finds a copy', { record }, { stamp: { ...STAMP, inode: 8n } }, 'aa', 'consistent PARENT_COPIED'],
    ['finds another disk', { record }, { stamp: { ...STAMP, inode: 8n } }, 'bb', 'mismatch PARENT_ID_MISMATCH'],
    [
      'finds the same inode used again',
      { record },
      { stamp: { ...STAMP, born: 2n } },
      'bb',
      'mismatch PARENT_ID_MISMATCH',
    ],
    [
      'finds a copy that cannot be read whole',
      { record },
      { stamp: { ...STAMP, inode: 8n } },
      undefined,
      'unverifiable IDENTITY_UNVERIFIABLE',
    ],
    [
      'is being merged',
      { record, merging: true },
      { stamp: { ...STAMP, modified: 6n } },
      'bb',
      'consistent MERGE_UNDER_WAY',
    ],
  ])('%s', async (_, link, parent, sample, wanted) => {
    expect(await judge(link, parent, sample)).toBe(wanted)
  })
})

describe('a child that knows the file of its parent, and when it was last changed', () => {
  const mine: Identity = { kind: 'file', value: 'f', current: true, weak: true }
  const expects = [mine]
  const at = (seconds: bigint): FileStamp => ({ ...STAMP, modified: seconds * 1_000_000_000n + 7n })
  test.each<[string, Partial<ParentLink>, Parent, string]>([
    ['finds that file, unchanged', { modified: 50 }, { identity: mine, stamp: at(50n) }, 'verified'],
    [
      'finds that file, changed at another time',
      { modified: 50 },
      { identity: mine, stamp: at(51n) },
      'consistent PARENT_TIMESTAMP_MISMATCH',
    ],
    ['finds that file, and has noted no time', {}, { identity: mine }, 'consistent'],
    [
      'finds another file of the same time',
      { modified: 50 },
      { identity: { ...mine, value: 'g' }, stamp: at(50n) },
      'mismatch PARENT_ID_MISMATCH',
    ],
    [
      'finds that file changed, and has a record of it',
      { modified: 50, record },
      { identity: mine, stamp: { ...STAMP, modified: 6n } },
      'mismatch PARENT_MODIFIED',
    ],
  ])('%s', async (_, link, parent, verdict) => {
    expect(await judge({ expects, ...link }, parent)).toBe(verdict)
  })
})

describe('a child whose parent has an identity that programs leave as it is', () => {
  const mine: Identity = { kind: 'file', value: 'f', current: true, weak: true }
  const about = { expects: [mine], record }
  test.each<[string, Parent, string | undefined, string]>([
    ['finds the file untouched', {}, 'aa', 'verified'],
    ['finds a copy', { stamp: { ...STAMP, inode: 8n } }, 'aa', 'consistent PARENT_COPIED'],
    ['finds another disk', { stamp: { ...STAMP, inode: 8n } }, 'bb', 'mismatch PARENT_ID_MISMATCH'],
    ['finds another file that cannot be read whole', { stamp: { ...STAMP, inode: 8n } }, undefined, 'consistent'],
  ])('%s', async (_, parent, sample, wanted) => {
    expect(await judge(about, { identity: mine, ...parent }, sample)).toBe(wanted)
  })
})

describe('a child that has a stand-in for the identity of a parent without one', () => {
  const standIn = guid(standInGuid({ identity: undefined, record }))
  test.each<[string, Partial<ParentLink>, Parent, string | undefined, string]>([
    ['finds the disk by its sample', { expects: [standIn] }, {}, 'aa', 'consistent PARENT_COPIED'],
    ['finds another disk', { expects: [standIn] }, {}, 'bb', 'mismatch PARENT_ID_MISMATCH'],
    ['finds one of another size', { expects: [standIn] }, { size: 2000 }, 'aa', 'mismatch PARENT_ID_MISMATCH'],
    ['finds one that cannot be read whole', { expects: [standIn] }, {}, undefined, 'mismatch PARENT_ID_MISMATCH'],
    ['goes by its record, if it has that', { expects: [standIn], record }, {}, 'aa', 'mismatch PARENT_ID_MISMATCH'],
  ])('%s', async (_, link, parent, sample, wanted) => {
    expect(await judge(link, parent, sample)).toBe(wanted)
  })
})

describe('the stamp of an image of several files', () => {
  const storeOf = (stamp: FileStamp | undefined): ByteStore =>
    ({ stamp: () => stamp }) as Partial<ByteStore> as ByteStore
  const stamped = (...stamps: (FileStamp | undefined)[]): FileStamp | undefined => {
    const [store, ...neighbours] = stamps.map(storeOf) as [ByteStore, ...ByteStore[]]
    return stampOf({ store, neighbours })
  }

  test('is that of the first where there is no other', () => {
    expect(stamped(STAMP)).toBe(STAMP)
    expect(stampOf({ store: storeOf(STAMP) })).toBe(STAMP)
  })

  test('is of all files: it changes with each of them, and only the place is that of the first', () => {
    const both = stamped(STAMP, { ...STAMP, inode: 8n })
    expect(both).toMatchObject({ size: 200, inode: 7n, born: 1n })
    expect(stamped(STAMP, { ...STAMP, inode: 8n })).toEqual(both)
    for (const change of [{ size: 99 }, { modified: 6n }, { inode: 9n }])
      expect(stamped(STAMP, { ...STAMP, inode: 8n, ...change })?.modified).not.toBe(both?.modified)
    expect(stamped(STAMP, { ...STAMP, inode: 8n, changed: 3n })?.changed).not.toBe(both?.changed)
  })

  test('is unknown where the medium does not tell; one further file of that kind counts for nothing', () => {
    expect(stamped(undefined, STAMP)).toBe(undefined)
    expect(stamped(STAMP, undefined)?.size).toBe(100)
  })
})
