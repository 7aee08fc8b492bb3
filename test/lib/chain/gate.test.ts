import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { FolderGate, type FolderGateOptions } from '../../../lib/chain/gate.ts'
import { isVdiskError, type VdiskError } from '../../../lib/errors.ts'
import type { Files } from '../../../lib/io/files.ts'
import { hostFiles } from '../../../lib/io/host-files.ts'
import { runSync } from '../../../lib/io/io.ts'
import { scratchFolder } from '../../support/temp.ts'

/** An image folder with a neighbour that is nobody's business. */
function make(): { folder: string; images: string } {
  const folder = scratchFolder()
  const images = path.join(folder, 'images')
  for (const name of ['images/sub', 'other']) fs.mkdirSync(path.join(folder, name), { recursive: true })
  for (const name of ['images/child', 'images/base', 'images/sub/base', 'other/base', 'images/base.vhdx']) {
    fs.writeFileSync(path.join(folder, name), name)
  }
  return { folder, images }
}

interface How extends FolderGateOptions {
  readonly named?: string
  readonly role?: 'parent' | 'data'
  readonly access?: 'read' | 'create'
}

/** Follows a reference from images/child; answers what the file that was opened holds. */
function follow(folder: string, reference: string, how: How = {}): string {
  const named = how.named ?? path.join(folder, 'images', 'child')
  const gate = new FolderGate(named, { locking: false, ...how })
  const from = FolderGate.openNamed(named, gate, {})
  try {
    const image = runSync(gate.admit(reference, from, how.role ?? 'parent', how.access ?? 'read'))
    const bytes = Buffer.alloc(image.store.size() as number)
    void image.store.read(0, bytes)
    image.store.close()
    return bytes.toString()
  } finally {
    from.store.close()
  }
}

function refusal(folder: string, reference: string, how: How = {}): VdiskError {
  try {
    const opened = follow(folder, reference, how)
    throw new Error(`${reference} was opened: ${opened}`)
  } catch (error) {
    if (!isVdiskError(error)) throw error
    return error
  }
}

describe('a name inside an image is followed', () => {
  test.each([
    ['base', 'images/base'],
    ['./base', 'images/base'],
    ['sub/base', 'images/sub/base'],
    ['sub/../base', 'images/base'],
  ])('to a plain file in its own folder: %s', (reference, found) => {
    expect(follow(make().folder, reference)).toBe(found)
  })

  test('as an absolute path, if that leads there', () => {
    const { folder, images } = make()
    expect(follow(folder, path.join(images, 'base'))).toBe('images/base')
  })

  test('to another folder only where the user allows that, by whatever name', () => {
    const { folder } = make()
    expect(refusal(folder, '../other/base')).toMatchObject({
      code: 'REFUSED',
      where: { structure: 'parent reference' },
    })
    expect(refusal(folder, '../other/base').advice).toContain(`--allow`)
    fs.symlinkSync('other', path.join(folder, 'alias'))
    for (const allowed of ['other', 'alias']) {
      const how = { allow: [path.join(folder, allowed)] }
      expect(follow(folder, `../${allowed}/base`, how)).toBe('other/base')
      expect(follow(folder, path.join(folder, 'other', 'base'), how)).toBe('other/base')
    }
  })

  test('beside the image itself, where that was named by a symbolic link', () => {
    const { folder } = make()
    const link = path.join(folder, 'other', 'link')
    fs.symlinkSync('../images/child', link)
    expect(follow(folder, 'sub/base', { named: link })).toBe('images/sub/base')
    // Beside the link there is a file of that name too: it comes first, as everywhere.
    expect(follow(folder, 'base', { named: link })).toBe('other/base')
  })
})

describe('a name inside an image is refused', () => {
  test.each([
    ['that leaves the folder', '../other/base'],
    ['that leaves it on a detour', 'sub/../../other/base'],
    ['of a file of the system', '/etc/passwd'],
    ['of a device', '/dev/null'],
    ['of a process', '/proc/self/environ'],
    ['that is empty', ''],
    ['that is a folder', 'sub'],
    ['that is its own folder', '.'],
    ['longer than any path', 'x'.repeat(4097)],
    ['with a NUL', 'base\0'],
    ['with a line break', 'ba\nse'],
    ['with an escape', 'base\u001b[2J'],
    ['with a C1 control character', 'base\u009b2J'],
    ['that was no valid text', 'base\ufffd'],
    ['with options for QEMU', 'json:{"driver":"raw","file.filename":"/etc/passwd"}'],
    ['of an NBD server', 'nbd://localhost/disk'],
    ['of a web server', 'http://localhost/disk'],
    ['of a file protocol', 'file:base'],
    ['that is Windows’ for leaving the folder', '..\\..\\etc\\passwd'],
    ['on a share of another machine', '\\\\server\\share\\nothing.vhdx'],
  ])('%s', (_, reference) => {
    const error = refusal(make().folder, reference)
    expect(['REFUSED', 'NOT_FOUND']).toContain(error.code)
    if (error.code === 'NOT_FOUND') expect(reference).toMatch(/^\\\\/)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(error.message).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/)
    expect(error.where.file).toMatch(/child$/)
  })

  test('of a file that is not there, and it is said where it was looked for', () => {
    const { folder, images } = make()
    const error = refusal(folder, 'gone')
    expect(error).toMatchObject({ code: 'NOT_FOUND' })
    expect(error.message).toContain(path.join(images, 'gone'))
  })

  test('of a symbolic link, and of what lies behind one', () => {
    const { folder, images } = make()
    fs.symlinkSync('/etc/passwd', path.join(images, 'link'))
    fs.symlinkSync('base', path.join(images, 'harmless'))
    fs.symlinkSync('../other', path.join(images, 'way'))
    for (const name of ['link', 'harmless', 'way/base']) expect(refusal(folder, name).code).toBe('REFUSED')
    expect(refusal(folder, 'way/base').advice).toContain(path.join(folder, 'other'))
  })

  test('of a FIFO, which would hang whoever opens it', () => {
    const { folder, images } = make()
    execFileSync('mkfifo', [path.join(images, 'fifo')])
    expect(refusal(folder, 'fifo')).toMatchObject({ code: 'REFUSED', message: expect.stringContaining('regular file') })
  })

  test('that is another file by the time it is open', () => {
    const { folder, images } = make()
    const [base, other] = ['images/base', 'other/base'].map((name) => path.join(folder, name)) as [string, string]
    const swapping = (open: (file: string) => string): Files => ({
      ...hostFiles,
      open: (file, options) => hostFiles.open(path.basename(file) === 'base' ? open(file) : file, options),
    })
    const replaced = expect.stringContaining('it was replaced while it was being opened')
    // Somebody else's file is opened under the name; or the name goes to another file right after.
    const elsewhere = swapping(() => other)
    expect(refusal(folder, 'base', { files: elsewhere })).toMatchObject({ code: 'REFUSED', message: replaced })
    const moved = swapping((file) => {
      fs.renameSync(base, path.join(images, 'before'))
      fs.copyFileSync(other, file)
      return path.join(images, 'before')
    })
    expect(refusal(folder, 'base', { files: moved })).toMatchObject({ code: 'REFUSED', message: replaced })
  })

  test('if it is missing, with what to do about it: only of a parent the place can be told anew', () => {
    const { folder } = make()
    expect(refusal(folder, 'gone').advice).toBe(
      'Put the file back in its place. Or point the image at it: vdisk relink IMAGE --parent FILE',
    )
    expect(refusal(folder, 'gone', { role: 'data' }).advice).toBe('Put the file back in its place.')
    expect(refusal(folder, 'c:\\gone').advice).toContain('--map PREFIX=DIR')
  })

  test('of the image itself, by any name', () => {
    const { folder, images } = make()
    fs.linkSync(path.join(images, 'child'), path.join(images, 'twin'))
    for (const name of ['child', './child', 'twin', path.join(images, 'child')]) {
      expect(refusal(folder, name, { role: 'parent' }).code).toBe('CHAIN_CYCLE')
      expect(refusal(folder, name, { role: 'data' }).code).toBe('REFUSED')
    }
  })

  test('for a data file that is to be made, if there is such a file', () => {
    const { folder, images } = make()
    expect(refusal(folder, 'base', { role: 'data', access: 'create' }).code).toBe('REFUSED')
    expect(fs.readFileSync(path.join(images, 'base'), 'utf8')).toBe('images/base')
    expect(follow(folder, 'new', { role: 'data', access: 'create' })).toBe('')
  })
})

describe('a path of Windows is found', () => {
  test.each([
    ['.\\base.vhdx'],
    ['D:\\vms\\base.vhdx'],
    ['d:/vms/base.vhdx'],
    ['\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\vms\\base.vhdx'],
    ['..\\elsewhere\\base.vhdx'],
  ])('by its last part beside the image: %s', (reference) => {
    expect(follow(make().folder, reference)).toBe('images/base.vhdx')
  })

  test('where the user says its folder is, in any case and with either slash', () => {
    const { folder } = make()
    for (const prefix of ['D:\\vms', 'd:/VMS/', '\\\\?\\D:\\vms']) {
      const map = [{ prefix, folder: path.join(folder, 'other') }]
      const allow = [path.join(folder, 'other')]
      expect(follow(folder, 'D:\\vms\\base', { map, allow })).toBe('other/base')
      // The prefix ends with a whole name.
      expect(follow(folder, 'D:\\vmsx\\base', { map, allow })).toBe('images/base')
    }
  })
})

describe('a neighbour that an image has made', () => {
  const opened = (images: string): ReturnType<typeof FolderGate.openNamed> => {
    const named = path.join(images, 'child')
    return FolderGate.openNamed(named, new FolderGate(named, { locking: false }), {})
  }

  test('takes its name, and can be removed', () => {
    const { images } = make()
    const image = opened(images)
    runSync(image.takeOver('base'))
    expect(fs.readFileSync(path.join(images, 'child'), 'utf8')).toBe('images/base')
    runSync(image.removeNeighbour('base.vhdx'))
    runSync(image.removeNeighbour('base.vhdx'))
    expect(fs.readdirSync(images).sort()).toEqual(['child', 'sub'])
    image.store.close()
  })

  test.each(['../other/base', 'sub/base', 'sub', 'child', '', '.', '..'])('is nothing else: %j', (name) => {
    const { images } = make()
    const image = opened(images)
    for (const work of [() => image.takeOver(name), () => image.removeNeighbour(name)]) {
      expect(() => runSync(work())).toThrow(/no other file beside it/)
    }
    expect(fs.existsSync(path.join(images, '..', 'other', 'base'))).toBe(true)
    image.store.close()
  })
})
