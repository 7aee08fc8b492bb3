import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { drivers } from '../../lib/formats/registry.ts'
import {
  checkImage,
  convertDisk,
  createDisk,
  createLayer,
  finish,
  inspectChain,
  inspectImage,
  mergeImage,
  openDisk,
  relink,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { expectSameBytes } from '../support/qemu.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

// Any format's child over any other's disk. A format that comes into the registry is tried here by itself.

const SIZE = 3 << 20
const PARENTS = drivers.filter(({ supports }) => supports.create && supports.write)
const CHILDREN = PARENTS.filter(({ supports }) => supports.parent)
/** What is written into the base, the child, and the layer above it: places and lengths, on and beside all borders. */
const WRITTEN = {
  base: [
    [0, 70_000],
    [1_000_001, 300_000],
  ],
  child: [
    [60_000, 20_000],
    [1_100_003, 4096],
    [SIZE - 513, 513],
  ],
  top: [[1_101_000, 2000]],
} as const

class Shelf {
  private readonly folder = scratchFolder()
  private readonly formats = new Map<string, string>()

  at(name: string): string {
    return path.join(this.folder, name)
  }

  /** The format of a file need not be probed; of a raw one it must not. */
  how(name: string): { format?: string } {
    const format = this.formats.get(name)
    return format === 'raw' ? { format } : {}
  }

  async make(name: keyof typeof WRITTEN, format: string, parent?: string): Promise<void> {
    this.formats.set(name, format)
    const over =
      parent === undefined ? { size: SIZE } : { parent: this.at(parent), parentFormat: this.formats.get(parent) }
    await (await createDisk(this.at(name), { format, ...over })).close()
    await this.write(name, WRITTEN[name], name.length)
  }

  async write(name: string, places: readonly (readonly [number, number])[], fill: number): Promise<void> {
    await using disk = await openDisk(this.at(name), { writable: true, ...this.how(name) })
    for (const [offset, length] of places) await disk.write(offset, patternFor(offset, length, fill))
  }

  async read(name: string): Promise<Buffer> {
    await using disk = await openDisk(this.at(name), this.how(name))
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    return bytes
  }

  names(): string[] {
    return fs.readdirSync(this.folder).sort()
  }
}

/** Writes where its last byte is, and leaves that as it was: but who could know? */
function scribble(file: string): void {
  const descriptor = fs.openSync(file, 'r+')
  const [at, byte] = [fs.fstatSync(descriptor).size - 1, Buffer.alloc(1)]
  fs.readSync(descriptor, byte, 0, 1, at)
  fs.writeSync(descriptor, byte, 0, 1, at)
  fs.closeSync(descriptor)
}

/** What a disk reads as after these writes, one layer over the other. */
function contentOf(...layers: (keyof typeof WRITTEN)[]): Buffer {
  const bytes = Buffer.alloc(SIZE)
  for (const layer of layers) {
    for (const [offset, length] of WRITTEN[layer]) bytes.set(patternFor(offset, length, layer.length), offset)
  }
  return bytes
}

const PAIRS = CHILDREN.flatMap((child) => PARENTS.map((parent) => [child.name, parent.name] as const))

describe.each(PAIRS)('a %s over a %s', (childFormat, parentFormat) => {
  async function shelf(): Promise<Shelf> {
    const made = new Shelf()
    await made.make('base', parentFormat)
    await made.make('child', childFormat, 'base')
    return made
  }

  test('reads as both, checks clean, and says who its parent is', async () => {
    const made = await shelf()
    expectSameBytes(await made.read('child'), contentOf('base', 'child'), 'the child')
    expectSameBytes(await made.read('base'), contentOf('base'), 'the base')
    const { findings } = await finish(checkImage(made.at('child'), { chain: true }))
    expect(findings).toEqual([])
    const [, child] = await inspectChain(made.at('child'))
    expect(['verified', 'consistent']).toContain(child?.link?.level)
    expect(child?.parent).toMatchObject({ format: parentFormat })
    expect(['holds', undefined]).toContain(child?.linkRecord?.state)
  })

  test('is told from one whose parent was written to', async () => {
    const made = await shelf()
    await made.write('base', [[2_000_000, 1000]], 9)
    expect(await refusal(() => made.read('child'))).toMatchObject({ code: 'PARENT_MISMATCH' })
  })

  // Programs that write a VHDX give it another identity; what is written past the format they cannot know.
  test.skipIf(parentFormat === 'vhdx')('is told from one whose parent was written to past its format', async () => {
    const made = await shelf()
    scribble(made.at('base'))
    expect(await refusal(() => made.read('child'))).toMatchObject({ code: 'PARENT_MISMATCH' })
  })

  test('never reads as zeros without its parent, and follows it to another place', async () => {
    const made = await shelf()
    fs.renameSync(made.at('base'), made.at('moved'))
    expect(['PARENT_MISSING', 'NOT_FOUND']).toContain((await refusal(() => made.read('child'))).code)
    await relink(made.at('child'), made.at('moved'), { parentFormat })
    expectSameBytes(await made.read('child'), contentOf('base', 'child'), 'the child')
  })

  test('is merged into it', async () => {
    const made = await shelf()
    await finish(mergeImage(made.at('child'), { delete: true, compare: true }))
    expectSameBytes(await made.read('base'), contentOf('base', 'child'), 'the base')
    expect(made.names().filter((name) => name.startsWith('child'))).toEqual([])
    const { findings } = await finish(checkImage(made.at('base'), made.how('base')))
    expect(findings).toEqual([])
  })

  test('is merged from below another layer, which goes on upon the base', async () => {
    const made = await shelf()
    await createLayer(made.at('child'), made.at('top'), {})
    await made.write('top', WRITTEN.top, 'top'.length)
    await finish(mergeImage(made.at('child')))
    expectSameBytes(await made.read('top'), contentOf('base', 'child', 'top'), 'the top')
    expect((await inspectImage(made.at('top'))).parent?.format).toBe(parentFormat)
    expect((await inspectImage(made.at('child'))).merged?.into).toBe('base')
    expect(await refusal(() => openDisk(made.at('child'), { writable: true }))).toMatchObject({ code: 'REFUSED' })
  })

  test('takes what a conversion finds different, and nothing else', async () => {
    const made = await shelf()
    {
      await using disk = await openDisk(made.at('child'))
      const how = { format: childFormat, parent: made.at('base'), parentFormat }
      await finish(convertDisk(disk.chain, made.at('copy'), how))
    }
    expectSameBytes(await made.read('copy'), contentOf('base', 'child'), 'the copy')
    expect(made.names().filter((name) => name.includes('partial'))).toEqual([])
  })
})

test.each(CHILDREN.map(({ name }) => name))(
  'a %s over a flat VMDK is told from one whose extent was edited as a raw disk',
  async (format) => {
    const folder = scratchFolder()
    const [base, child] = [path.join(folder, 'base.vmdk'), path.join(folder, 'child')]
    await (await createDisk(base, { format: 'vmdk', size: SIZE, options: { subformat: 'monolithicFlat' } })).close()
    await (await createDisk(child, { format, parent: base, parentFormat: 'vmdk' })).close()
    await (await openDisk(child)).close()
    scribble(path.join(folder, 'base-flat.vmdk'))
    expect(await refusal(() => openDisk(child))).toMatchObject({ code: 'PARENT_MISMATCH' })
  },
)
