import type { Chain } from '../../lib/chain/chain.ts'
import type { CreateShape, FormatDriver } from '../../lib/contracts/driver.ts'
import type { Layer } from '../../lib/contracts/layer.ts'
import { promised } from '../../lib/io/io.ts'
import { patternFor } from '../model/history.ts'
import { rawParent } from '../support/raw-base.ts'
import { CrashFolder } from './crash-folder.ts'
import { type Geometry, NAMES } from './geometry.ts'
import { examineLayer } from './layer-examiner.ts'
import { operate, operationsFor, type Use } from './layer-operations.ts'
import { openChain } from './open-layer.ts'
import { PagedFile } from './paged-file.ts'
import type { Played, Scene } from './scene.ts'
import { type Picture, pictureHash, Truth } from './truth.ts'
import { begun } from './without-chance.ts'

/** What a scene begins with. */
export interface Beginning {
  readonly folder: CrashFolder
  readonly picture: Picture
  readonly base: PagedFile | undefined
  /** of the image, as its children know it */
  readonly identity: string | undefined
}

/** One image, alone or over a base, worked on as a chain of layers. */
export async function layerScene(geometry: Geometry): Promise<Scene> {
  const beginning = await begin(geometry)
  return {
    name: geometry.name,
    sector: geometry.sector ?? 512,
    start: beginning.folder.medium,
    operations: operationsFor(geometry),
    play: (operations) => play(geometry, beginning, operations),
  }
}

async function play(geometry: Geometry, beginning: Beginning, operations: readonly string[]): Promise<Played> {
  const { picture, base } = beginning
  const folder = new CrashFolder(beginning.folder.medium)
  const truth = new Truth(folder, picture)
  const use: Use = {
    geometry,
    chain: await openChain(geometry.driver, folder, 'write'),
    truth,
    base,
    fill: 5,
    async reopen() {
      await promised(use.chain.close())
      use.chain = await openChain(geometry.driver, folder, 'write')
    },
  }
  const begins: number[] = []
  for (const name of operations) {
    begins.push(folder.log.length)
    folder.mark(name)
    await operate(use, name)
  }
  const baseNumber = folder.medium.names.get(NAMES.base)
  const touched = truth.touched(({ disk, snapshots }) => [disk, ...snapshots.values()])
  if (folder.log.some((entry) => 'file' in entry && entry.file === baseNumber)) throw new Error('the base was written')
  return {
    log: folder.log,
    begins,
    questionAt: (end) => truth.questionAt(end, pictureHash),
    examine(crashed, { end, liedFlushes }, thorough) {
      const lied = liedFlushes !== undefined
      const possible = lied ? truth.everything() : truth.possibleAt(end)
      return examineLayer(geometry, beginning, crashed, { possible, touched, lied, reopens: thorough })
    },
  }
}

/** An image with a little content, closed; and what it holds. */
export async function begin(geometry: Geometry): Promise<Beginning> {
  return await begun(() => made(geometry))
}

async function made(geometry: Geometry): Promise<Beginning> {
  const folder = new CrashFolder()
  const base = geometry.child ? makeBase(folder, geometry.size) : undefined
  if (geometry.craft) {
    folder.made(NAMES.image).write(0, geometry.craft())
  } else {
    const parent = base && rawParent(base.size)
    const shape: CreateShape = { size: geometry.size, parent, options: new Map(Object.entries(geometry.options)) }
    const create = geometry.driver.create as NonNullable<FormatDriver['create']>
    await promised((await promised(create(folder.image(NAMES.image), shape))).close())
  }
  const chain = await openChain(geometry.driver, folder, 'write')
  await fill(chain, geometry)
  await promised(chain.close())
  if (geometry.spoil) {
    const file = folder.fileBehind(folder.numberOf(NAMES.image))
    const bytes = geometry.spoil(Buffer.from(file.bytes()))
    file.truncate(0)
    file.write(0, bytes)
  }
  const closed = await openChain(geometry.driver, folder, 'read')
  return { folder, base, picture: await pictureOf(closed), identity: closed.layers.at(-1)?.identity?.value }
}

/** Two granules that are written, a snapshot if there shall be one, and half of that again. */
async function fill(chain: Chain, { snapshot }: Geometry): Promise<void> {
  const length = Math.min(chain.granularity, 1024)
  const put = (offset: number, fill: number): Promise<void> =>
    promised(chain.write(offset, patternFor(offset, length, fill)))
  await put(0, 1)
  await put(chain.granularity, 2)
  if (!snapshot) return
  const { edit } = (chain.layers.at(-1) as Layer).snapshots ?? {}
  if (!edit) throw new TypeError(`${chain.name} cannot keep snapshots`)
  await promised(edit.create('first'))
  await put(0, 3)
}

/** Bytes here and there, a little shorter than the child; under two names. */
function makeBase(folder: CrashFolder, size: number): PagedFile {
  const base = new PagedFile()
  base.truncate(size - 1536)
  for (const offset of [0, Math.floor(size / 3), Math.floor(size / 2), size - 8192]) {
    base.write(offset, patternFor(offset, Math.min(6000, size - 1536 - offset), 99))
  }
  for (const name of [NAMES.base, NAMES.otherBase]) folder.made(name).write(0, base.bytes())
  return base
}

/** What there is before anything happens: read once, by the reader that the tests of formats have proven. */
async function pictureOf(chain: Chain): Promise<Picture> {
  const top = chain.layers.at(-1) as Layer
  const snapshots = new Map<string, PagedFile>()
  for (const { name } of top.snapshots?.list() ?? []) {
    snapshots.set(name, await contentOf(await promised(chain.viewOfSnapshot(name))))
  }
  const disk = await contentOf(chain)
  const bitmaps = new Map((top.bitmaps?.list() ?? []).map(({ name }) => [name, disk]))
  return { disk, snapshots, bitmaps, linked: top.parent !== undefined }
}

async function contentOf(chain: Chain): Promise<PagedFile> {
  const disk = new PagedFile()
  disk.truncate(chain.size)
  for (let offset = 0; offset < chain.size; ) {
    const { kind, length } = await promised(chain.map(offset, chain.size - offset))
    const bytes = new Uint8Array(Math.min(length, 65536))
    if (kind !== 'zero') {
      await promised(chain.read(offset, bytes))
      if (bytes.some((byte) => byte !== 0)) disk.write(offset, bytes)
    }
    offset += kind === 'zero' ? length : bytes.length
  }
  return disk
}
