import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { FolderGate, type FolderGateOptions, type HostImage } from '../../../lib/chain/gate.ts'
import { type ErrorCode, isVdiskError, VdiskError } from '../../../lib/errors.ts'
import type { Files } from '../../../lib/io/files.ts'
import { hostFiles } from '../../../lib/io/host-files.ts'
import { just, runSync } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { scratchFolder } from '../../support/temp.ts'

/** A folder with an image and one beside it. */
function folderOfImages(): string {
  const folder = scratchFolder()
  for (const name of ['child', 'base']) fs.writeFileSync(path.join(folder, name), name)
  return folder
}

/** Does something with an image that was named, and closes it. */
function using<T>(named: string, options: FolderGateOptions, work: (image: HostImage, gate: FolderGate) => T): T {
  const gate = new FolderGate(named, { locking: false, ...options })
  const image = FolderGate.openNamed(named, gate, {})
  try {
    return work(image, gate)
  } finally {
    image.store.close()
  }
}

function errorOf(work: () => unknown): unknown {
  try {
    work()
  } catch (error) {
    return error
  }
  return undefined
}

const failure = (code: ErrorCode): VdiskError => new VdiskError(code, { message: `Cannot look: ${code}` })

function throwing(error: Error): () => never {
  return () => {
    throw error
  }
}

/** What no folder and no medium answers: a mistake in the program. */
const MISTAKE = new TypeError('a mistake')

describe('the name of an image', () => {
  test('may go on behind a file: the rest is a member of it', () => {
    const folder = folderOfImages()
    using(path.join(folder, 'base', 'disks', 'one'), {}, ({ name, member }) =>
      expect([name, member]).toEqual([path.join(folder, 'base'), 'disks/one']),
    )
    using(path.join(folder, 'base'), {}, ({ member }) => expect(member).toBe(undefined))
  })

  test.each(['none', 'none/at/all'])('that leads to nothing is told whole: %s', (gone) => {
    const named = path.join(folderOfImages(), gone)
    expect(errorOf(() => using(named, {}, () => {}))).toMatchObject({ code: 'NOT_FOUND', where: { file: named } })
  })

  test('may be relative, and lead nowhere', () => {
    const files: Files = { ...hostFiles, find: () => undefined }
    const named = 'no-such-folder/image'
    expect(errorOf(() => using(named, { files }, () => {}))).toMatchObject({
      code: 'NOT_FOUND',
      where: { file: named },
    })
  })

  test('that cannot be looked at is opened all the same, which tells more', () => {
    const named = path.join(folderOfImages(), 'child')
    const files: Files = { ...hostFiles, find: throwing(failure('IO')), open: throwing(failure('REFUSED')) }
    expect(errorOf(() => using(named, { files }, () => {}))).toMatchObject({ code: 'REFUSED' })
    expect(errorOf(() => using(named, { files: { ...files, find: throwing(MISTAKE) } }, () => {}))).toBe(MISTAKE)
  })
})

describe('what lies beside an image', () => {
  test('is nothing where nobody may look; a medium that fails is told', () => {
    const named = path.join(folderOfImages(), 'child')
    const look = (error: Error): unknown[] => {
      const files: Files = { ...hostFiles, list: throwing(error) }
      return using(named, { files }, (image, gate) => [
        errorOf(() => image.namesBeside()) ?? image.namesBeside(),
        errorOf(() => gate.nearby(image)) ?? gate.nearby(image),
      ])
    }
    expect(look(failure('REFUSED'))).toEqual([[], []])
    for (const error of [failure('IO'), MISTAKE]) expect(look(error)).toEqual([error, error])
    expect([...using(named, {}, (image) => image.namesBeside())].sort()).toEqual(['base', 'child'])
  })

  test('is a linkage record, but not of a device', () => {
    const named = path.join(folderOfImages(), 'child')
    expect(using(named, {}, ({ linkRecord }) => linkRecord?.name)).toBe(`${fs.realpathSync(named)}.vdisk-link`)
    const open: Files['open'] = (file, options) =>
      Object.defineProperty(hostFiles.open(file, options), 'isDevice', { value: true })
    expect(using(named, { files: { ...hostFiles, open } }, ({ linkRecord }) => linkRecord)).toBe(undefined)
  })

  test('takes the name of the image between two flushes of the folder; of what need not last there are none', () => {
    const steps = (durable: boolean): string[] => {
      const log: string[] = []
      const files: Files = {
        ...hostFiles,
        flushFolder: () => void log.push('flush'),
        rename: (from, to) => void log.push(`${path.basename(from)} to ${path.basename(to)}`),
      }
      using(path.join(folderOfImages(), 'child'), { files, durable }, (image) => runSync(image.takeOver('base')))
      return log
    }
    expect(steps(true)).toEqual(['flush', 'base to child', 'flush'])
    expect(steps(false)).toEqual(['base to child'])
  })
})

describe('a file that is followed to', () => {
  test('cannot be looked at: the reference is refused, but a medium that fails is told', () => {
    const named = path.join(folderOfImages(), 'child')
    const follow = (error: Error): unknown => {
      const files: Files = { ...hostFiles, look: throwing(error) }
      return errorOf(() => using(named, { files }, (image, gate) => runSync(gate.admit('base', image, 'data', 'read'))))
    }
    expect(follow(failure('REFUSED'))).toMatchObject({
      code: 'REFUSED',
      message: `Cannot follow ${named} to its data file "base": Cannot look: REFUSED`,
      where: { file: named, structure: 'data reference' },
      advice: expect.stringContaining('vdisk relink'),
    })
    const broken = failure('IO')
    expect(follow(broken)).toBe(broken)
  })

  test('by an image that is no file itself is found beside its name', () => {
    const folder = folderOfImages()
    const store = new MemoryStore('child')
    const from = { name: path.join(folder, 'child'), store, neighbour: () => just(store) }
    const image = runSync(new FolderGate(from.name, { locking: false }).admit('base', from, 'parent', 'read'))
    expect([image.name, image.namedBy]).toEqual([path.join(folder, 'base'), undefined])
    image.store.close()
  })
})

describe('a file that is made', () => {
  /** Makes a neighbour; `then` happens as soon as its file is there, before that is looked at again. */
  function make(then: (file: string, fail: (error: Error) => void) => void): { error: unknown; file: string } {
    const folder = folderOfImages()
    const file = path.join(folder, 'new')
    let failing: Error | undefined
    const files: Files = {
      ...hostFiles,
      open(name, options) {
        const store = hostFiles.open(name, options)
        if (options?.create) then(file, (error) => (failing = error))
        return store
      },
      look(name) {
        if (failing) throw failing
        return hostFiles.look(name)
      },
    }
    const named = path.join(folder, 'child')
    const error = errorOf(() => using(named, { files }, (image) => runSync(image.neighbour('new', 'create'))))
    return { error, file }
  }

  test('and whose name another file took meanwhile is refused, and that file stays', () => {
    const { error, file } = make((name) => {
      fs.unlinkSync(name)
      fs.writeFileSync(name, 'of somebody else')
    })
    expect(isVdiskError(error, 'REFUSED') && error.message).toContain('it was replaced while it was being opened')
    expect(fs.readFileSync(file, 'utf8')).toBe('of somebody else')
  })

  test('and cannot be looked at any more is removed again', () => {
    const broken = failure('IO')
    const { error, file } = make((_, fail) => fail(broken))
    expect(error).toBe(broken)
    expect(fs.existsSync(file)).toBe(false)
  })

  test('is there, and belongs to the image', () => {
    const folder = folderOfImages()
    const { made } = using(path.join(folder, 'child'), {}, (image) => {
      void runSync(image.neighbour('new', 'create')).close()
      return image
    })
    expect(made).toEqual([path.join(folder, 'new')])
  })
})
