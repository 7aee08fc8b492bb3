import { describe, expect, test } from 'vitest'
import type { Gate } from '../../../lib/chain/gate.ts'
import { openChain, openKnownLayers } from '../../../lib/chain/open.ts'
import { chooseDriver } from '../../../lib/chain/probe.ts'
import type { Container } from '../../../lib/contracts/container.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { Identity, MergedMark, ParentLink } from '../../../lib/contracts/identity.ts'
import type { Image } from '../../../lib/contracts/image.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { just, promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'

/** What a file says of itself, in a format that exists here only: nothing but links. */
interface Says {
  readonly parent?: Partial<ParentLink>
  readonly merged?: MergedMark
  readonly identity?: Identity
  readonly fails?: VdiskError
  /** when its file was last changed, in seconds */
  readonly changedAt?: number
  /** tells files apart, whatever they are called */
  readonly file?: string
}

const failure = (code: VdiskError['code'], advice?: string): VdiskError =>
  new VdiskError(code, { message: `Cannot: ${code}`, ...(advice === undefined ? {} : { advice }) })

/** Files by name; a name that stands for an error fails with it. */
function family(files: Readonly<Record<string, Says | VdiskError>>) {
  const log: string[] = []
  const imageOf = (name: string): Image => {
    const { changedAt = 0, file } = files[name] as Says
    const store = Object.assign(new MemoryStore(name, { content: new Uint8Array(512) }), {
      close: () => {
        log.push(`close ${name}`)
      },
      stamp: () => ({ size: 512, modified: BigInt(changedAt) * 1_000_000_000n, inode: 1n, born: 1n }),
      ...(file !== undefined && { fileId: () => file }),
    })
    return { name, store, neighbour: () => just(store) }
  }
  const gate: Gate = {
    admit(reference) {
      log.push(`ask for ${reference}`)
      const found = files[reference] ?? failure('NOT_FOUND', `bring ${reference} back`)
      if (found instanceof VdiskError) throw found
      return just(imageOf(reference))
    },
  }
  const driver = {
    name: 'links',
    probe: () => 'yes' as const,
    open({ name, store }: Image) {
      const { parent, merged, identity, fails } = files[name] as Says
      if (fails) throw fails
      const link = { references: [], format: 'links', expects: [], record: undefined, merging: false, ...parent }
      return just({
        format: 'links',
        name,
        store,
        size: 512,
        granularity: 512,
        identity,
        parent: parent && link,
        merged,
        details: {},
        map: (_: number, length: number) => just({ kind: 'zero' as const, length }),
        close: () => just(void log.push(`close ${name}`)),
      } as unknown as Layer)
    },
  } as unknown as FormatDriver
  const options = { drivers: [driver], gate, access: 'read', verify: 'strict' } as const
  const open = (change: Partial<Parameters<typeof openChain>[1]> = {}) =>
    promised(openChain(imageOf('top'), { ...options, ...change }))
  return { log, open, driver, known: () => promised(openKnownLayers(imageOf('top'), options)), image: imageOf('top') }
}

describe('the parent of an image', () => {
  test('is looked for by each of its names, in their order, until one is there', async () => {
    const { open, log } = family({ top: { parent: { references: ['old', 'new', 'newer'] } }, new: {}, newer: {} })
    const chain = await open()
    expect(chain.layers.map(({ name }) => name)).toEqual(['new', 'top'])
    expect(log).toEqual(['ask for old', 'ask for new'])
  })

  test('is missing if no name leads to it: what would bring it back is said', async () => {
    const { open, log } = family({ top: { parent: { references: ['old'] } } })
    await expect(open()).rejects.toMatchObject({
      code: 'PARENT_MISSING',
      message: expect.stringContaining('its parent "old" is missing'),
      where: { file: 'top', structure: 'parent reference' },
      advice: 'bring old back',
    })
    expect(log.at(-1)).toBe('close top')
  })

  test('is missing if it has no name', async () => {
    await expect(family({ top: { parent: {} } }).open()).rejects.toMatchObject({
      code: 'PARENT_MISSING',
      message: expect.stringContaining('(not named)'),
      advice: expect.stringContaining('vdisk relink'),
    })
  })

  test.each([
    ['before', ['secret', 'old']],
    ['after', ['old', 'secret']],
  ])('is refused, not missing, where a name was refused %s one that leads nowhere', async (_, references) => {
    const { open } = family({ top: { parent: { references } }, secret: failure('REFUSED', 'allow it') })
    await expect(open()).rejects.toMatchObject({ code: 'REFUSED', advice: 'allow it' })
  })

  test('is not looked for by a further name where the medium failed', async () => {
    const { open, log } = family({ top: { parent: { references: ['bad', 'good'] } }, bad: failure('IO'), good: {} })
    await expect(open()).rejects.toMatchObject({ code: 'IO' })
    expect(log).toEqual(['ask for bad', 'close top'])
  })

  test('has no format that could be guessed, where neither the image nor the user says it', async () => {
    const { open } = family({ top: { parent: { references: ['base'], format: undefined } }, base: {} })
    await expect(open()).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('which format "base" has'),
      where: { file: 'top', structure: 'parent reference' },
    })
    expect((await open({ parentFormat: 'links' })).layers).toHaveLength(2)
    await expect(open({ parentFormat: 'unheard of' })).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      advice: 'Known formats: links.',
    })
  })

  test('that has no identity is not the one that was expected, and both are told', async () => {
    const expects = [{ kind: 'guid', value: 'abc', current: true } as const]
    const { open } = family({ top: { parent: { references: ['base'], expects } }, base: {} })
    await expect(open()).rejects.toMatchObject({
      code: 'PARENT_MISMATCH',
      message: expect.stringContaining('(it is without identity, expected abc)'),
      where: { file: 'top', structure: 'parent link' },
      advice: expect.stringContaining('--accept-modified'),
    })
    const { notes } = await open({ verify: 'warn' })
    expect(notes).toEqual([expect.stringContaining('expected abc)')])
  })
})

describe('what is read in spite of a doubt is told', () => {
  const identity: Identity = { kind: 'file', value: 'f', current: true, weak: true }

  test('of a parent that was changed at another time than the child has noted', async () => {
    const parent = { references: ['base'], expects: [identity], modified: 50 }
    const { open } = family({ top: { parent }, base: { identity, changedAt: 51 } })
    expect((await open()).notes).toEqual([expect.stringMatching(/^base as parent of top: .* by another program\.$/)])
    expect((await family({ top: { parent }, base: { identity, changedAt: 50 } }).open()).notes).toEqual([])
  })

  test('of damage that is left out, with the file if it is known', async () => {
    const leftOut = [
      new VdiskError('CORRUPT', { message: 'Cannot use top: a list is torn', where: { file: 'top' } }),
      failure('CORRUPT'),
    ]
    expect((await family({ top: {} }).open({ leftOut })).notes).toEqual([
      'Of top something is left out: a list is torn.',
      'Of the image something is left out: Cannot: CORRUPT.',
    ])
  })
})

test('an image that is packed is known by what is inside', async () => {
  const { open, driver, log } = family({ top: {} })
  const inner = new MemoryStore('inside', { content: Uint8Array.of(1) })
  const probed: number[] = []
  const container = { name: 'box', extensions: ['.box'], probe: () => 'yes', hasMembers: false }
  const containers = [
    { ...container, open: (image: Image) => just({ ...image, store: inner }) } as unknown as Container,
  ]
  const knowing: FormatDriver = {
    ...driver,
    probe: ({ size }) => {
      probed.push(size)
      return size === 1 ? 'yes' : 'no'
    },
  }
  const { layers } = await open({ drivers: [knowing], containers })
  expect([layers.map(({ store }) => store), probed, log]).toEqual([[inner], [512, 1], []])
})

describe('a chain that comes back to a file by another name', () => {
  const files = {
    top: { file: '1', parent: { references: ['middle'] } },
    middle: { file: '2', parent: { references: ['other'] } },
    other: { file: '1' },
  }

  test('is refused, and all of it is closed', async () => {
    const { open, log } = family(files)
    await expect(open()).rejects.toMatchObject({
      code: 'CHAIN_CYCLE',
      message: 'Cannot open top: its chain of parents comes back to other',
      where: { file: 'middle' },
      advice: expect.stringContaining('vdisk relink'),
    })
    expect(log.filter((line) => line.startsWith('close')).sort()).toEqual(['close middle', 'close other', 'close top'])
  })

  test('is known down to there', async () => {
    const { layers, broken } = await family(files).known()
    expect([layers.map(({ name }) => name), broken?.code]).toEqual([['middle', 'top'], 'CHAIN_CYCLE'])
  })
})

describe('an image that was merged into another', () => {
  const merged = { into: 'base', at: 86_400 }

  test('is history: it is read with a note, and not written to', async () => {
    const { open } = family({ top: { merged } })
    expect((await open()).notes).toEqual([expect.stringContaining('merged into base on 1970-01-02')])
    await expect(open({ access: 'write' })).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('Cannot write top was merged into base'),
      advice: expect.stringContaining('Use base'),
    })
  })

  test('may lie beneath one that is written to', async () => {
    const { open } = family({ top: { parent: { references: ['middle'] } }, middle: { merged } })
    expect((await open({ access: 'write' })).notes).toEqual([expect.stringContaining('middle was merged into base')])
  })

  test('and has another parent now is not asked to accept that one', async () => {
    const expects = [{ kind: 'guid', value: 'abc', current: true } as const]
    const { open } = family({ top: { merged, parent: { references: ['base'], expects } }, base: {} })
    await expect(open()).rejects.toMatchObject({
      code: 'PARENT_MISMATCH',
      advice: 'This layer was merged into base: use that file.',
    })
  })
})

describe('what is left of a broken chain', () => {
  test('are the layers down to the one whose parent is missing', async () => {
    const { known } = family({ top: { parent: { references: ['middle'] } }, middle: { parent: { references: ['x'] } } })
    const { layers, links, broken } = await known()
    expect(layers.map(({ name }) => name)).toEqual(['middle', 'top'])
    expect(links.map((link) => link?.level)).toEqual([undefined, 'unverifiable'])
    expect(broken).toMatchObject({ code: 'PARENT_MISSING', where: { file: 'middle' } })
  })

  test('is nothing, if the image itself does not open', async () => {
    const { known, log } = family({ top: { fails: failure('CORRUPT') } })
    await expect(known()).rejects.toMatchObject({ code: 'CORRUPT' })
    expect(log).toEqual(['close top'])
  })

  test('is nothing, if nobody wants to know any more', async () => {
    const { known, log } = family({ top: { parent: { references: ['base'] } }, base: { fails: failure('CANCELLED') } })
    await expect(known()).rejects.toMatchObject({ code: 'CANCELLED' })
    expect(log).toEqual(['ask for base', 'close base', 'close top'])
  })
})

test('an image that two formats claim is neither of them', async () => {
  const { driver, image } = family({ top: {} })
  const drivers = [driver, { ...driver, name: 'others' }]
  await expect(promised(chooseDriver(image, drivers, { forWriting: false }))).rejects.toMatchObject({
    code: 'AMBIGUOUS_FORMAT',
    message: expect.stringContaining('links and others'),
    where: { file: 'top' },
    advice: expect.stringContaining('--source-format'),
  })
})
