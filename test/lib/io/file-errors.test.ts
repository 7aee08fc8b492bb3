import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { flushError, nativeError, openError } from '../../../lib/io/file-errors.ts'
import { systemError } from '../../faults/memory-machine.ts'
import { scratchFolder } from '../../support/temp.ts'

describe('a file that the system does not open', () => {
  test.each([
    ['ENOENT', {}, 'NOT_FOUND', 'Cannot open /x/y: there is no such file', 'Check the name'],
    [
      'ENOTDIR',
      { create: 'new' },
      'NOT_FOUND',
      'Cannot create /x/y: its folder does not exist',
      'Make the folder first',
    ],
    ['EEXIST', { create: 'new' }, 'REFUSED', 'Cannot create /x/y: it exists already', '--force'],
    ['ELOOP', { noFollow: true }, 'REFUSED', 'it is a symbolic link', 'Name the file it leads to'],
    ['ELOOP', {}, 'REFUSED', 'lead in a circle', 'Name the file itself'],
    ['ENAMETOOLONG', {}, 'REFUSED', 'longer than this system allows', 'a shorter name'],
    ['EISDIR', { write: true }, 'REFUSED', 'it is a directory', 'an image file in it'],
    ['ENXIO', {}, 'REFUSED', 'neither a regular file nor a block device', 'Name a file'],
    ['EACCES', {}, 'REFUSED', 'permission denied', 'who may read the file'],
    ['EPERM', { write: true }, 'READ_ONLY', 'permission denied', 'who may write to the file'],
    [
      'EACCES',
      { write: true, create: 'replace' },
      'READ_ONLY',
      'Cannot create /x/y: permission denied',
      'Choose a folder',
    ],
    ['EROFS', { write: true }, 'READ_ONLY', 'mounted read-only', 'work on a copy'],
    ['ETXTBSY', { write: true }, 'IN_USE', 'the system uses it', 'a swap file'],
    ['ENOSPC', { create: 'new' }, 'NO_SPACE', 'Cannot create /x/y: no room is left', 'Free some room'],
  ] as const)('for %s (%j) is %s, and what to do is said', (code, options, expected, message, advice) => {
    const cause = systemError(code)
    const error = openError('/x/y', cause, options)
    expect(error).toMatchObject({ code: expected, where: { file: '/x/y' }, cause })
    expect(error.message).toContain(message)
    expect(error.advice).toContain(advice)
  })

  test('because it is not there is looked for where its name leads', () => {
    const folder = scratchFolder()
    const link = path.join(folder, 'link')
    fs.symlinkSync('gone.qcow2', link)
    const adviceOn = (file: string) => openError(file, systemError('ENOENT'), {}).advice
    expect(adviceOn(link)).toBe('It is a symbolic link, and where it leads there is nothing: gone.qcow2')
    expect(adviceOn(path.join(folder, 'none'))).toBe('Check the name.')
    expect(adviceOn('none.qcow2')).toBe(`Check the name, and the folder: ${path.resolve('none.qcow2')} was looked for.`)
    expect(adviceOn('')).toBe('Give the name of an image.')
  })
})

test('a failed flush that the system gives no name is none for want of room', () => {
  const error = flushError('/disk', { message: 'it broke' })
  expect([error.code, error.message]).toEqual(['IO', 'Cannot make /disk durable: it broke'])
  expect(error.advice).toContain('Check the medium')
})

test('what native calls answer is called as the system calls it', () => {
  expect(nativeError(-28)).toEqual({ code: 'ENOSPC', message: 'ENOSPC' })
  expect(nativeError(-9999)).toEqual({ code: undefined, message: 'errno 9999' })
})
