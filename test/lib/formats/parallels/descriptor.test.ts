import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkImage, finish, inspectImage, openDisk, VdiskError } from '../../../../lib/index.ts'
import { ParallelsFile, SECTOR } from '../../../support/parallels-file.ts'
import { tempFolder } from '../../../support/temp.ts'

const TOP = '{5fbaabe3-6958-40ff-92a7-860e329aab41}'
const ROOT = '{11111111-2222-3333-4444-555555555555}'
const SIDE = '{aaaaaaaa-2222-3333-4444-555555555555}'
const NONE = '{00000000-0000-0000-0000-000000000000}'
const folder = tempFolder('parallels-xml')
let made = 0

interface Parts {
  readonly parameters?: string
  readonly size?: number | string
  readonly images?: readonly (readonly [guid: string, file: string, type?: string])[]
  readonly shots?: readonly (readonly [guid: string, parent: string])[]
  readonly top?: string
  readonly storages?: string
  readonly version?: string
  readonly before?: string
}

/** A descriptor by the specification: docs/interop/prl-xml of QEMU. */
function descriptor(parts: Parts = {}): string {
  const { size = 64, version = '1.0', before = '', parameters = '<Padding>0</Padding>' } = parts
  const images = parts.images ?? [
    [ROOT, 'root.hds'],
    [TOP, 'top.hds'],
  ]
  const shots = parts.shots ?? [
    [ROOT, NONE],
    [TOP, ROOT],
  ]
  const storage = `<Storage><Start>0</Start><End>64</End><Blocksize>8</Blocksize>${images
    .map(
      ([guid, file, type = 'Compressed']) =>
        `<Image><GUID>${guid}</GUID><Type>${type}</Type><File>${file}</File></Image>`,
    )
    .join('')}</Storage>`
  return `<?xml version="1.0" encoding="UTF-8"?>${before}
<Parallels_disk_image Version="${version}">
  <Disk_Parameters><Disk_size>${size}</Disk_size><Cylinders>1</Cylinders><Heads>1</Heads><Sectors>64</Sectors>${parameters}</Disk_Parameters>
  <StorageData>${parts.storages ?? storage}</StorageData>
  <Snapshots>${parts.top === undefined ? '' : `<TopGUID>${parts.top}</TopGUID>`}${shots
    .map(([guid, parent]) => `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`)
    .join('')}</Snapshots>
</Parallels_disk_image>`
}

/** A bundle on disk: root has 1, 2, 3 in its first clusters, top 9 in the second, side 8 in the third. */
function bundle(text: string): string {
  const name = path.join(folder, `disk-${made++}.hdd`)
  fs.mkdirSync(name)
  fs.writeFileSync(path.join(name, 'DiskDescriptor.xml'), text)
  const put = (file: string, image: ParallelsFile): void => fs.writeFileSync(path.join(name, file), image.bytes)
  put('root.hds', new ParallelsFile({ stored: 3, bat: [1, 2, 3] }))
  put('top.hds', overlay([0, 1], 9))
  put('side.hds', overlay([0, 0, 1], 8))
  return name
}

function overlay(bat: readonly number[], value: number): ParallelsFile {
  const file = new ParallelsFile({ stored: 1, bat })
  return file.fill(file.placeOf(1), file.clusterSize, value)
}

async function firstsOf(name: string, count = 4): Promise<number[]> {
  await using disk = await openDisk(name)
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return Array.from({ length: count }, (_, cluster) => bytes[cluster * 8 * SECTOR] as number)
}

async function refusalOf(name: string): Promise<VdiskError> {
  const error = await openDisk(name).then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(VdiskError)
  return error as VdiskError
}

describe('a bundle by the specification', () => {
  test('reads as its branch of the tree does', async () => {
    expect(await firstsOf(bundle(descriptor()))).toEqual([1, 9, 3, 0])
  })

  test.each([
    ['its top is named', { top: ROOT, shots: [[ROOT, NONE]], images: [[ROOT, 'root.hds']] }, [1, 2, 3, 0]],
    ['only one state, without a tree', { shots: [], images: [[ROOT, 'root.hds']] }, [1, 2, 3, 0]],
    [
      'another branch is passed over',
      {
        images: [
          [ROOT, 'root.hds'],
          [TOP, 'top.hds'],
          [SIDE, 'side.hds'],
        ],
        shots: [
          [ROOT, NONE],
          [SIDE, ROOT],
          [TOP, ROOT],
        ],
      },
      [1, 9, 3, 0],
    ],
    [
      'GUIDs are written in capitals',
      {
        shots: [
          [ROOT.toUpperCase(), NONE],
          [TOP.toUpperCase(), ROOT],
        ],
      },
      [1, 9, 3, 0],
    ],
  ] as [string, Parts, number[]][])('%s', async (_, parts, wanted) => {
    expect(await firstsOf(bundle(descriptor(parts)))).toEqual(wanted)
  })

  test('a state that is missing its file is never read as zeros', async () => {
    const name = bundle(descriptor())
    fs.rmSync(path.join(name, 'root.hds'))
    expect((await refusalOf(name)).code).toBe('NOT_FOUND')
    const { findings } = await finish(checkImage(name)).catch((error: VdiskError) => ({ findings: [error] }))
    expect(findings.length).toBeGreaterThan(0)
    // To look at what it says of itself no other file is needed.
    expect((await inspectImage(name)).snapshots).toHaveLength(1)
  })
})

describe('a descriptor from a stranger is refused', () => {
  const many = (count: number, of: (index: number) => string): string =>
    Array.from({ length: count }, (_, index) => of(index)).join('')

  test.each([
    ['a document type with entities', { before: '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]>' }, 'UNSUPPORTED'],
    ['an entity', { parameters: '<Name>&lol;</Name>' }, 'UNSUPPORTED'],
    ['another version', { version: '2.0' }, 'UNSUPPORTED'],
    ['padding', { parameters: '<Padding>1</Padding>' }, 'UNSUPPORTED'],
    ['encryption', { parameters: `<Encryption><Engine>${SIDE}</Engine></Encryption>` }, 'UNSUPPORTED'],
    ['sectors of 4096', { parameters: '<LogicSectorSize>4096</LogicSectorSize>' }, 'UNSUPPORTED'],
    [
      'an image of no type',
      {
        images: [
          [ROOT, 'root.hds', 'Magic'],
          [TOP, 'top.hds'],
        ],
      },
      'UNSUPPORTED',
    ],
    ['a size that is no number', { size: '1e3' }, 'CORRUPT'],
    ['a size without measure', { size: '99999999999999999999' }, 'CORRUPT'],
    ['a size that its storages do not cover', { size: 65 }, 'CORRUPT'],
    ['no storage', { storages: '' }, 'CORRUPT'],
    [
      'a state upon itself',
      {
        shots: [
          [ROOT, NONE],
          [TOP, TOP],
        ],
      },
      'CORRUPT',
    ],
    [
      'states in a circle',
      {
        shots: [
          [ROOT, TOP],
          [TOP, ROOT],
        ],
      },
      'CORRUPT',
    ],
    [
      'two roots',
      {
        shots: [
          [ROOT, NONE],
          [TOP, NONE],
        ],
      },
      'CORRUPT',
    ],
    ['a state upon none that is there', { shots: [[TOP, SIDE]] }, 'CORRUPT'],
    [
      'no top',
      {
        shots: [
          [ROOT, NONE],
          [SIDE, ROOT],
        ],
        images: [
          [ROOT, 'root.hds'],
          [SIDE, 'side.hds'],
        ],
      },
      'CORRUPT',
    ],
    ['a top that is not there', { top: SIDE }, 'CORRUPT'],
    ['a top that others are built upon', { top: ROOT }, 'CORRUPT'],
    [
      'a state twice',
      {
        shots: [
          [ROOT, NONE],
          [TOP, ROOT],
          [ROOT, NONE],
        ],
      },
      'CORRUPT',
    ],
    [
      'an image twice',
      {
        images: [
          [ROOT, 'root.hds'],
          [TOP, 'top.hds'],
          [TOP, 'side.hds'],
        ],
      },
      'CORRUPT',
    ],
    ['a state without image', { images: [[ROOT, 'root.hds']] }, 'CORRUPT'],
    [
      'one file for two states',
      {
        images: [
          [ROOT, 'root.hds'],
          [TOP, './root.hds'],
        ],
      },
      'CORRUPT',
    ],
    [
      'a plain difference',
      {
        images: [
          [ROOT, 'root.hds'],
          [TOP, 'top.hds', 'Plain'],
        ],
      },
      'CORRUPT',
    ],
    ['a state that is no GUID', { shots: [['__proto__', NONE]] }, 'CORRUPT'],
    [
      'itself as image',
      {
        images: [
          [ROOT, 'root.hds'],
          [TOP, 'DiskDescriptor.xml'],
        ],
      },
      'REFUSED',
    ],
    [
      'a name without end',
      {
        images: [
          [ROOT, 'a'.repeat(5000)],
          [TOP, 'top.hds'],
        ],
      },
      'CORRUPT',
    ],
    [
      'states without number',
      {
        parameters: '',
        shots: [
          [ROOT, NONE],
          [TOP, ROOT],
          ...Array.from(
            { length: 1100 },
            (_, i) => [`{${String(i).padStart(8, '0')}-0000-0000-0000-000000000001}`, ROOT] as const,
          ),
        ],
      },
      'LIMIT_EXCEEDED',
    ],
    ['elements without depth', { parameters: many(20, () => '<x>') + many(20, () => '</x>') }, 'LIMIT_EXCEEDED'],
    ['more than a megabyte', { parameters: `<x>${'y'.repeat(1 << 20)}</x>` }, 'LIMIT_EXCEEDED'],
  ] as [string, Parts, string][])('with %s', async (_, parts, code) => {
    expect((await refusalOf(bundle(descriptor(parts)))).code).toBe(code)
  })

  test('with images elsewhere: no file outside the bundle is opened', async () => {
    const outside = path.join(folder, 'secret')
    fs.writeFileSync(outside, new ParallelsFile({ stored: 1, bat: [1] }).bytes)
    for (const file of [outside, '../secret', '..\\secret', `file://${outside}`, '/dev/zero', 'sub/../../secret']) {
      const name = bundle(
        descriptor({
          images: [
            [ROOT, file],
            [TOP, 'top.hds'],
          ],
        }),
      )
      expect(['REFUSED', 'NOT_FOUND']).toContain((await refusalOf(name)).code)
      fs.symlinkSync(outside, path.join(name, 'link'))
      fs.writeFileSync(
        path.join(name, 'DiskDescriptor.xml'),
        descriptor({
          images: [
            [ROOT, 'link'],
            [TOP, 'top.hds'],
          ],
        }),
      )
      expect((await refusalOf(name)).code).toBe('REFUSED')
    }
  })
})

describe('faults of a tree that do not concern the state that is written', () => {
  const SPOILED: [string, Parts][] = [
    [
      'a branch upon nothing',
      {
        shots: [
          [ROOT, NONE],
          [TOP, ROOT],
          [SIDE, '{ffffffff-2222-3333-4444-555555555555}'],
        ],
      },
    ],
    [
      'a branch in a circle',
      {
        shots: [
          [ROOT, NONE],
          [TOP, ROOT],
          [SIDE, SIDE],
        ],
      },
    ],
    [
      'a second root',
      {
        shots: [
          [ROOT, NONE],
          [TOP, ROOT],
          [SIDE, NONE],
        ],
      },
    ],
  ]
  const images = [
    [ROOT, 'root.hds'],
    [TOP, 'top.hds'],
    [SIDE, 'side.hds'],
  ] as const

  // QEMU takes the descriptor for a raw disk; others read on as if nothing were.
  test.each(SPOILED)('%s: is refused, told by the check, and left out by salvage', async (_, parts) => {
    const name = bundle(descriptor({ ...parts, images }))
    expect((await refusalOf(name)).code).toBe('CORRUPT')
    const { findings, counts } = await finish(checkImage(name))
    expect(counts.error).toBeGreaterThan(0)
    expect(findings[0]?.structure).toBe('DiskDescriptor.xml')
    await using disk = await openDisk(name, { salvage: true })
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    expect([bytes[0], bytes[4096], bytes[8192]]).toEqual([1, 9, 3])
    expect(disk.notes.length).toBeGreaterThan(0)
  })

  test('two images of one state that share a cluster are found in any branch', async () => {
    const name = bundle(
      descriptor({
        images,
        shots: [
          [ROOT, NONE],
          [TOP, ROOT],
          [SIDE, ROOT],
        ],
      }),
    )
    const file = path.join(name, 'side.hds')
    fs.writeFileSync(file, new ParallelsFile({ stored: 1, bat: [1, 1] }).bytes)
    const { findings } = await finish(checkImage(name))
    expect(findings).toMatchObject([{ code: 'CLUSTER_SHARED', structure: 'BAT of side.hds' }])
  })
})
