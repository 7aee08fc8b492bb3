import { afterEach, describe, expect, test, vi } from 'vitest'
import { printContent } from '../../cli/disk-content.ts'
import { errorContent, Output, printable } from '../../cli/output.ts'
import { withUndo } from '../../cli/undo.ts'
import { type DiskContent, VdiskError } from '../../lib/index.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

/** What would be printed. */
function outputs(): { out: Output; lines: string[]; notes: string[] } {
  const [lines, notes]: [string[], string[]] = [[], []]
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0)
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => notes.push(String(text)) > 0)
  return { out: new Output({ json: false, quiet: false, color: false, progress: 'none' }), lines, notes }
}

describe('an error, as a document,', () => {
  const system = (code: string, path?: string) =>
    Object.assign(new Error(`${code}: no`), { code, syscall: 'open', path })

  test.each([
    [new VdiskError('IN_USE', { message: 'no', where: { file: '/a' }, advice: 'wait' }), 'IN_USE', 'no', 'wait'],
    [
      system('ENOSPC', '/a'),
      'NO_SPACE',
      'Cannot do "open" with /a: ENOSPC: no',
      'Free some room, then repeat the command.',
    ],
    [system('EIO'), 'IO', 'Cannot do "open": EIO: no', 'Look at the file, its folder and their permissions.'],
    [new TypeError('oops'), 'INTERNAL', 'This should not happen: oops', expect.stringContaining('a mistake in vdisk')],
  ])('says what, where and what to do: %s', (error, code, message, advice) => {
    expect(errorContent(error)).toMatchObject({ code, message, advice })
  })

  test('brings no control characters to a terminal', () => {
    expect(printable('a\u001b[31m\nb\u009bc')).toBe('a?[31m?b?c')
  })
})

test('a disk without partitions says what it holds, if that is known', () => {
  const disk = { size: 1 << 20, sectorSize: undefined, table: undefined, partitions: [], notes: ['odd\u001b'] }
  const holds = (filesystem: unknown): string => {
    const { out, lines } = outputs()
    printContent(out, 'a.raw', { ...disk, filesystem } as unknown as DiskContent)
    return lines.join('')
  }
  expect(holds(undefined)).toMatch(/^holds +nothing that is known here$/m)
  expect(holds({ type: 'ext4', mountable: true })).toMatch(/^holds +ext4$/m)
  expect(holds({ type: 'ext4', label: 'root', uuid: 'u-1', remark: 'not clean' })).toMatch(
    /^holds +ext4 "root" u-1 \(not clean\)$/m,
  )
})

test('partitions are shown in columns, whatever is known of them', () => {
  const { out, lines, notes } = outputs()
  const partition = { start: 1 << 20, length: 1 << 20, type: '83', typeName: undefined, bootable: false }
  printContent(out, 'a.raw', {
    size: 4 << 20,
    table: { kind: 'mbr', id: '1234', sectorSize: 512 },
    filesystem: undefined,
    notes: ['one of them is odd'],
    partitions: [
      { ...partition, number: 1, typeName: 'Linux', bootable: true, filesystem: { type: 'ext4', label: 'root' } },
      { ...partition, number: 2, label: 'data\u001b' },
      { ...partition, number: 3, damaged: 'it ends behind the disk' },
    ],
  } as unknown as DiskContent)
  const rows = lines
    .join('')
    .split('\n')
    .filter((line) => /^ *[0-9]/.test(line))
  expect(rows.map((row) => row.trim().split(/ {2,}/))).toEqual([
    ['1', '1 MiB', '1 MiB', 'Linux', 'ext4 "root" (bootable)'],
    ['2', '1 MiB', '1 MiB', '83', '"data?"'],
    ['3', '1 MiB', '1 MiB', '83', 'damaged: it ends behind the disk'],
  ])
  expect(notes.join('')).toContain('one of them is odd')
})

test('a verb that fails after it has changed something says how to take that back', async () => {
  const { out, notes } = outputs()
  const failing = withUndo({ image: 'a.qcow2', undo: true, undoLimit: '1G' } as never, out, async (undo) => {
    const { onKept } = undo as { onKept: (journal: unknown) => void }
    onKept({ file: 'a.qcow2.vdisk-undo', bytes: 512 })
    throw new Error('half way')
  })
  await expect(failing).rejects.toThrow('half way')
  expect(notes.join('')).toContain('what it has changed can be undone: vdisk undo a.qcow2')
})
