import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  checkImage,
  convertDisk,
  createDisk,
  createLayer,
  type ErrorCode,
  finish,
  inspectChain,
  mergeImage,
  openDisk,
  relink,
  resizeDisk,
  revertToSnapshot,
  type VdiskError,
} from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { commandLineIn, type Ran } from '../support/command-line.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { expectSameBytes, ourReading, Qemu } from '../support/qemu.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

// What goes wrong between a child and its parent is noticed before it harms, explained, and nothing is worse for it.
// Which changes are noticed at all, version by version, is in qcow2-linkage.test.ts.

const SIZE = 2 << 20

interface Kind {
  readonly parent: string
  readonly child: string
}

const KINDS: readonly Kind[] = [
  { parent: 'qcow2', child: 'qcow2' },
  { parent: 'raw', child: 'qcow2' },
  { parent: 'vhdx', child: 'qcow2' },
  { parent: 'vhdx', child: 'vhdx' },
  { parent: 'qcow2', child: 'vhdx' },
  { parent: 'raw', child: 'vhdx' },
]

/** A child and its parent, side by side, each with something of its own. */
class Scene {
  readonly kind: Kind
  /** everything that is looked at lies in here */
  readonly folder: string
  readonly child: string
  readonly parent: string
  /** how the disk read when all was well */
  content: Uint8Array = new Uint8Array(0)

  private constructor(kind: Kind) {
    this.kind = kind
    this.folder = scratchFolder()
    fs.mkdirSync(path.join(this.folder, 'here'))
    fs.mkdirSync(path.join(this.folder, 'elsewhere'))
    this.child = this.at('here', `child.${kind.child}`)
    this.parent = this.at('here', `parent.${kind.parent}`)
  }

  static async make(kind: Kind): Promise<Scene> {
    const scene = new Scene(kind)
    await makeDisk(scene.parent, kind.parent, 1)
    await using disk = await createDisk(scene.child, {
      format: kind.child,
      options: optionsOf(kind.child),
      parent: scene.parent,
      parentFormat: kind.parent,
    })
    await disk.write(1 << 20, patternFor(0, 70_000, 9))
    await disk.close()
    scene.content = await ourReading(scene.child)
    return scene
  }

  at(...parts: string[]): string {
    return path.join(this.folder, ...parts)
  }

  vdisk(...args: string[]): Ran {
    return commandLineIn(path.dirname(this.child))(...args)
  }

  /** Every file, by name, as it is to the byte. */
  state(): Record<string, string> {
    const files = fs.readdirSync(this.folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
    return Object.fromEntries(
      files.map((one) => {
        const file = path.join(one.parentPath, one.name)
        return [file, createHash('sha256').update(fs.readFileSync(file)).digest('hex')]
      }),
    )
  }
}

async function makeDisk(file: string, format: string, fill: number): Promise<void> {
  await using disk = await createDisk(file, { format, size: SIZE, options: optionsOf(format) })
  await disk.write(0, patternFor(0, 3 << 19, fill))
  await disk.close()
}

/** Files stay small, for they are hashed often. */
function optionsOf(format: string): Record<string, string> {
  return format === 'vhdx' ? { block_size: '1M' } : {}
}

/** A way to break the link. */
interface Accident {
  readonly title: string
  /** undefined: always */
  readonly when?: (kind: Kind) => boolean
  happen(scene: Scene): Promise<void> | void
  readonly code: ErrorCode
  readonly says: RegExp
  /** where the right file is now; default: where it always was */
  readonly now?: (scene: Scene) => string
}

const CHANGED = /was written to|another program wrote|is another disk|is not the disk/

const CHANGES: readonly Accident[] = [
  {
    title: 'the parent was written by vdisk',
    happen: async ({ parent, kind }) => {
      await using disk = await openDisk(parent, { writable: true, format: kind.parent })
      await disk.write(1 << 20, Uint8Array.of(1, 2, 3))
    },
    code: 'PARENT_MISMATCH',
    says: CHANGED,
  },
  {
    title: 'the parent was written by qemu-io',
    happen: ({ parent, kind }) => void runPeer('qemu-io', ['-f', kind.parent, '-c', 'write -P 3 1M 512', parent]),
    code: 'PARENT_MISMATCH',
    says: CHANGED,
  },
  {
    // A VHDX file is known to its child by a GUID in its header alone: who writes past the format leaves no trace there.
    title: 'the parent was written by dd',
    when: ({ parent }) => parent !== 'vhdx',
    happen: ({ parent }) => {
      const place = ['bs=512', `seek=${fs.statSync(parent).size / 512 - 1}`, 'count=1', 'conv=notrunc', 'status=none']
      runPeer('dd', ['if=/dev/urandom', `of=${parent}`, ...place])
    },
    code: 'PARENT_MISMATCH',
    says: CHANGED,
  },
  {
    title: 'another disk of the same size has the name of the parent',
    happen: async ({ parent, kind }) => {
      fs.rmSync(parent)
      await makeDisk(parent, kind.parent, 100)
    },
    code: 'PARENT_MISMATCH',
    says: CHANGED,
  },
  {
    // Raw files have no identity: one with the same content is the same disk.
    title: 'the parent was made again, with the same content',
    when: ({ parent }) => parent !== 'raw',
    happen: async ({ parent, kind }) => {
      fs.rmSync(parent)
      await makeDisk(parent, kind.parent, 1)
    },
    code: 'PARENT_MISMATCH',
    says: CHANGED,
  },
]

const MOVES: readonly Accident[] = [
  {
    title: 'the parent was renamed',
    happen: (scene) => fs.renameSync(scene.parent, scene.at('here', 'renamed')),
    now: (scene) => scene.at('here', 'renamed'),
    code: 'PARENT_MISSING',
    says: /is missing/,
  },
  {
    title: 'the parent was moved into a folder below',
    happen: (scene) => {
      fs.mkdirSync(scene.at('here', 'bases'))
      fs.renameSync(scene.parent, scene.at('here', 'bases', 'p'))
    },
    now: (scene) => scene.at('here', 'bases', 'p'),
    code: 'PARENT_MISSING',
    says: /is missing/,
  },
  {
    title: 'the parent was moved to another folder',
    happen: (scene) => fs.renameSync(scene.parent, scene.at('elsewhere', 'p')),
    now: (scene) => scene.at('elsewhere', 'p'),
    code: 'PARENT_MISSING',
    says: /is missing/,
  },
  {
    title: 'the child was moved without its parent',
    happen: (scene) => {
      fs.renameSync(scene.child, scene.at('elsewhere', path.basename(scene.child)))
      Object.assign(scene, { child: scene.at('elsewhere', path.basename(scene.child)) })
    },
    code: 'PARENT_MISSING',
    says: /is missing/,
  },
]

/** Where both are of formats with identities of their own, one change and one move stand for all. */
function accidentsOf(kind: Kind): readonly Accident[] {
  const mixed = kind.parent !== kind.child && kind.parent !== 'raw'
  const chosen = mixed ? [CHANGES[1] as Accident, MOVES[2] as Accident] : [...CHANGES, ...MOVES]
  return chosen.filter(({ when }) => when?.(kind) ?? true)
}

/** Everything that would read or change the disk; each must be refused. */
function attempts(scene: Scene): Record<string, () => Promise<unknown>> {
  const { child } = scene
  const copy = scene.at('elsewhere', 'copy')
  return {
    'open to read': () => openDisk(child),
    'open to write': () => openDisk(child, { writable: true }),
    'open to write, with a warning only': () => openDisk(child, { writable: true, verify: 'warn' }),
    merge: () => finish(mergeImage(child)),
    'merge and delete': () => finish(mergeImage(child, { delete: true })),
    resize: () => resizeDisk(child, SIZE * 2),
    'make a layer': () => createLayer(child, copy, {}),
    revert: () => revertToSnapshot(child, path.basename(scene.parent)),
    convert: async () => {
      await using disk = await openDisk(child)
      await finish(convertDisk(disk.chain, copy, { format: 'raw' }))
    },
  }
}

/** The command line that an advice gives, with the names filled in. */
function commandIn(advice: string | undefined, image: string, parent: string): string[] {
  const [, found] = /vdisk (relink IMAGE --parent FILE(?: --accept-modified)?)/.exec(advice ?? '') ?? []
  if (found === undefined) throw new Error(`no command in: ${advice}`)
  return found.split(' ').map((word) => (word === 'IMAGE' ? image : word === 'FILE' ? parent : word))
}

/** The error tells which files, what is wrong with them, and what to do. */
function expectExplained(error: VdiskError, scene: Scene, accident: Accident): void {
  expect(error.code).toBe(accident.code)
  expect(error.message).toMatch(/^Cannot /)
  expect(error.message).toContain(path.basename(scene.child))
  expect(error.message).toContain(path.basename(scene.parent))
  expect(error.message).toMatch(accident.says)
  expect(error.where.file).toBe(scene.child)
  expect(error.where.structure).toMatch(/^parent (link|reference)$/)
}

describeWithPeers(['qemu-img', 'qemu-io', 'dd'], 'a broken link', () => {
  for (const kind of KINDS) {
    describe(`of ${kind.child} over ${kind.parent}`, () => {
      for (const accident of accidentsOf(kind)) {
        test(`${accident.title}: noticed, explained, harmless, and the advice helps`, async () => {
          const scene = await Scene.make(kind)
          await accident.happen(scene)
          const before = scene.state()

          for (const [what, work] of Object.entries(attempts(scene))) {
            const error = await refusal(work)
            if (what === 'open to read') expectExplained(error, scene, accident)
            else expect([what, error.code]).toEqual([what, accident.code])
            expect(scene.state(), what).toEqual(before)
          }
          const { findings } = await finish(checkImage(scene.child))
          expect(findings.map(({ severity }) => severity)).toEqual(['error'])
          expect(scene.state()).toEqual(before)

          const { advice } = await refusal(() => openDisk(scene.child))
          const now = accident.now?.(scene) ?? scene.parent
          const command = commandIn(advice, scene.child, now)
          const fixed = scene.vdisk(...command)
          expect(fixed.code, fixed.err).toBe(0)
          // The parent has not changed by that; and the disk can be used again.
          const { [scene.child]: _, ...others } = before
          expect(scene.state()).toMatchObject(others)
          const outside = path.dirname(now) !== path.dirname(scene.child) && !now.includes('bases')
          const options = outside ? { allow: [allowedBy(await refusal(() => openDisk(scene.child)))] } : {}
          expect((await inspectChain(scene.child, options)).at(-1)?.link?.level).toMatch(/^(verified|consistent)$/)
          const found = await ourReading(scene.child, options)
          if (accident.code === 'PARENT_MISSING') expectSameBytes(found, scene.content, 'the disk')
          expect((await finish(checkImage(scene.child, options))).findings).toEqual([])
        })
      }

      test('is mended by bringing the parent back as it was', async () => {
        const scene = await Scene.make(kind)
        const backup = scene.at('elsewhere', 'backup')
        runPeer('cp', ['-p', scene.parent, backup])
        await CHANGES[1]?.happen(scene)
        expect((await refusal(() => openDisk(scene.child))).code).toBe('PARENT_MISMATCH')
        runPeer('cp', ['-p', backup, scene.parent])
        expect((await inspectChain(scene.child)).at(-1)?.link?.level).toMatch(/^(verified|consistent)$/)
        expectSameBytes(await ourReading(scene.child), scene.content, 'the disk')
      })

      test('can be read over, with a warning that names both files', async () => {
        const scene = await Scene.make(kind)
        await CHANGES[0]?.happen(scene)
        const before = scene.state()
        await using disk = await openDisk(scene.child, { verify: 'warn' })
        const note = disk.notes.join()
        expect(note).toContain(scene.child)
        expect(note).toContain(scene.parent)
        expect(note).toMatch(CHANGED)
        expect(disk.writable).toBe(false)
        await expect(disk.write(0, Uint8Array.of(1))).rejects.toMatchObject({ code: 'READ_ONLY' })
        await disk.read(0, new Uint8Array(SIZE))
        await disk.close()
        expect(scene.state()).toEqual(before)
      })
    })
  }
})

describe('a broken link on the command line', () => {
  test.each(KINDS.filter((kind) => kind.parent === kind.child))(
    'stops every verb, with its own exit code: $child over $parent',
    async (kind) => {
      const scene = await Scene.make(kind)
      await CHANGES[0]?.happen(scene)
      const before = scene.state()
      const { child, parent } = scene
      const copy = scene.at('elsewhere', 'copy')
      const verbs: [number, string[]][] = [
        [2, ['check', child]],
        [2, ['compare', child, child]],
        [1, ['map', child]],
        [1, ['merge', child]],
        [1, ['resize', child, '+1M']],
        [1, ['convert', child, copy, '--format', 'raw']],
        [1, ['convert', child, copy, '--format', 'qcow2', '--flatten']],
        [1, ['snapshot', 'create', child, '--to', copy]],
        [1, ['create', copy, '--format', 'qcow2', '--parent', child, '--parent-format', kind.child]],
        [1, ['relink', child, '--parent', parent]],
        [0, ['info', child, '--chain']],
      ]
      for (const [code, args] of verbs) {
        const ran = scene.vdisk(...args)
        expect([args[0], ran.code]).toEqual([args[0], code])
        const told = ran.out + ran.err
        expect(told, args[0]).toContain(path.basename(parent))
        expect(told, args[0]).toMatch(CHANGED)
        expect(scene.state(), args.join(' ')).toEqual(before)
      }
      const merge = scene.vdisk('merge', child, '--json')
      expect(merge.json()).toMatchObject({ error: { code: 'PARENT_MISMATCH', where: { file: child } } })
      commandIn(merge.json().error.advice, child, parent)
      const check = scene.vdisk('check', child, '--json').json()
      expect(check.findings).toMatchObject([{ severity: 'error', structure: 'parent link' }])
      commandIn(check.findings[0].message, child, parent)
    },
  )
})

/** The folder that an error says may be allowed. */
function allowedBy(error: VdiskError): string {
  expect(error.code).toBe('REFUSED')
  const [, folder] = /--allow (.+)$/.exec(error.advice ?? '') ?? []
  return folder as string
}

describeWithPeers(['qemu-img', 'qemu-io'], 'a parent that is called by a path of Windows', () => {
  test('of a qcow2 child is found by --map, as the advice says, and without it nothing is harmed', async () => {
    const scene = await Scene.make({ parent: 'qcow2', child: 'qcow2' })
    fs.renameSync(scene.parent, scene.at('elsewhere', 'base one.qcow2'))
    const name = 'C:\\vm\\bases\\base one.qcow2'
    new Qemu(path.dirname(scene.child)).img(['rebase', '-u', '-b', name, '-F', 'qcow2', path.basename(scene.child)])
    const before = scene.state()
    const error = await refusal(() => openDisk(scene.child))
    expect(error).toMatchObject({ code: 'PARENT_MISSING', advice: expect.stringContaining('--map PREFIX=DIR') })
    expect(error.message).toContain(name)
    const map = `c:/vm/BASES=${scene.at('elsewhere')}`
    const ran = scene.vdisk('info', scene.child, '--chain', '--map', map, '--json')
    expect(ran.json().layers.at(-1).link.level).toBe('verified')
    expect(scene.vdisk('check', scene.child, '--map', map).code).toBe(0)
    expect(scene.state()).toEqual(before)
  })

  test('of a VHDX child is found by --map where its folder went', async () => {
    const scene = await Scene.make({ parent: 'vhdx', child: 'vhdx' })
    fs.renameSync(scene.parent, scene.at('elsewhere', path.basename(scene.parent)))
    const before = scene.state()
    const error = await refusal(() => openDisk(scene.child))
    expect(error).toMatchObject({ code: 'PARENT_MISSING', advice: expect.stringContaining('--map PREFIX=DIR') })
    const map = `${path.dirname(scene.child)}=${scene.at('elsewhere')}`
    expect(scene.vdisk('check', scene.child, '--map', map)).toMatchObject({ code: 0, err: '' })
    const options = { map: [{ prefix: path.dirname(scene.child), folder: scene.at('elsewhere') }] }
    expectSameBytes(await ourReading(scene.child, options), scene.content, 'the disk')
    expect(scene.state()).toEqual(before)
  })
})

describeWithPeers(['qemu-img'], 'a link in the middle of a chain', () => {
  test.each(['qcow2', 'vhdx'])('%s: the error names the two files that do not fit, not the top', async (format) => {
    const scene = await Scene.make({ parent: format, child: format })
    const top = scene.at('here', 'top')
    await (await createDisk(top, { format, parent: scene.child, parentFormat: format })).close()
    await CHANGES[0]?.happen(scene)
    const before = scene.state()
    const error = await refusal(() => openDisk(top))
    expect(error.where.file).toBe(scene.child)
    expect(error.message).toContain(scene.parent)
    const [, link, above] = await inspectChain(top)
    expect([link?.link?.level, above?.link?.level]).toEqual(['mismatch', 'verified'])
    expect(scene.vdisk('check', top).code).toBe(0)
    expect(scene.vdisk('check', top, '--chain').code).toBe(2)
    expect(scene.state()).toEqual(before)
    // The advice is about the link that is broken; the one above it holds through the repair.
    expect(scene.vdisk(...commandIn(error.advice, error.where.file as string, scene.parent)).code).toBe(0)
    expect((await inspectChain(top)).slice(1).map(({ link: one }) => one?.level)).toEqual(['verified', 'verified'])
  })

  test('a link that was accepted stays on record, and is noticed again at the next change', async () => {
    const scene = await Scene.make({ parent: 'qcow2', child: 'qcow2' })
    await CHANGES[0]?.happen(scene)
    const { replaced } = await relink(scene.child, scene.parent, { acceptModified: true })
    expect(replaced).toBeDefined()
    await CHANGES[0]?.happen(scene)
    expect((await refusal(() => openDisk(scene.child))).code).toBe('PARENT_MISMATCH')
  })
})
