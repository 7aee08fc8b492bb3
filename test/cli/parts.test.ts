import { afterEach, describe, expect, test, vi } from 'vitest'
import { command as info } from '../../cli/commands/info.ts'
import { command as mounts } from '../../cli/commands/mounts.ts'
import { printContent } from '../../cli/disk-content.ts'
import { errorContent, Output, printable } from '../../cli/output.ts'
import { withUndo } from '../../cli/undo.ts'
import { type DiskContent, VdiskError } from '../../lib/index.ts'
import { scratchFolder } from '../support/temp.ts'

let held: unknown
vi.mock('../../fuse/control/control-client.ts', async (original) => ({
  ...(await original<object>()),
  askHolder: async () => held,
}))
vi.mock('../../fuse/doors/mount-table.ts', async (original) => ({
  ...(await original<object>()),
  readMountTable: () => [],
}))

afterEach(() => {
  vi.unstubAllEnvs()
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

test('where nothing is mounted, that is said', async () => {
  vi.stubEnv('VDISK_RUNTIME_DIR', scratchFolder())
  const { out, lines } = outputs()
  expect(await mounts.run({ args: {}, out, signal: new AbortController().signal } as never)).toBe(0)
  expect(lines).toEqual(['Nothing is mounted.\n'])
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

describe('of an image that is mounted', () => {
  const LAYER = {
    name: '/x/a.qcow2',
    format: 'qcow2',
    size: 4 << 20,
    occupied: undefined,
    fileSize: 1 << 20,
    granularity: 65_536,
    identity: { value: 'id-1', current: false },
    parent: {
      references: [],
      format: undefined,
      expects: ['id-0', 'id-9'],
      replaced: 'id-8',
      merging: true,
    },
    wrapping: { container: 'ova', member: 'disk.vmdk' },
    linkRecord: { file: '/x/a.qcow2.vdisk-link', state: 'stale' },
    snapshots: [],
    bitmaps: [],
    merged: { into: 'base.qcow2', at: 0 },
    leftOut: [{ message: 'a table' }],
    inUse: false,
    details: { lazyCounts: true, other: false, nothing: null, parts: ['a'], version: 3 },
    depth: 0,
    link: { level: 'mismatch', message: 'they differ', expected: undefined, found: undefined },
    broken: { message: 'gone', advice: 'find it' },
  }
  const mounted = { mountpoint: '/mnt', disk: '/mnt/a.raw', pid: 7, mode: 'overlay' }
  const said = async (image: string, chain: boolean): Promise<{ code: number; text: string }> => {
    const { out, lines } = outputs()
    const args = { image, chain, partitions: false, allow: [], map: [], maxDepth: 64, locking: 'on', verify: 'strict' }
    const signal = new AbortController().signal
    const code = (await info.run({ args, out, signal } as never)) as number
    vi.restoreAllMocks()
    return { code, text: lines.join('') }
  }

  test('its server tells all that there is to tell', async () => {
    held = { mounted, layers: [LAYER] }
    const { code, text } = await said('/x/a.qcow2', false)
    expect(code).toBe(0)
    for (const line of [
      /^packed +ova, "disk\.vmdk"$/m,
      /^identity +id-1 \(out of date: another program has written since\)$/m,
      /^parent +\(not named\) \(format not named\)$/m,
      /^expects +id-0 or id-9$/m,
      /^accepted +in place of id-8$/m,
      /^link record +a\.qcow2\.vdisk-link, beside the image: says nothing: it speaks of another link/m,
      /^merging +a merge into the parent was begun/m,
      /^merged +into base\.qcow2 on 1970-01-01 00:00:00: this file is history$/m,
      /^lazy counts +yes$/m,
      /^parts +\["a"\]$/m,
      /^version +3$/m,
      /^left out {2}a table$/m,
      /^mounted {3}\/mnt\/a\.raw, overlay, by process 7$/m,
    ])
      expect(text).toMatch(line)
    expect(text).not.toMatch(/^(on medium|other|nothing)/m)
    // Under another name the top is meant.
    expect((await said('/x/link.qcow2', false)).text).toMatch(/^image +\/x\/a\.qcow2$/m)
  })

  test('so with its chain, and what is broken fails', async () => {
    const { broken: _, ...sound } = LAYER
    held = { mounted, layers: [LAYER, { ...sound, name: '/x/b.qcow2', depth: 1, occupied: 512, wrapping: undefined }] }
    const { code, text } = await said('/x/b.qcow2', true)
    expect(code).toBe(1)
    expect(text).toContain('1  /x/b.qcow2  qcow2, disk of 4 MiB, 512 B on medium')
    expect(text).toContain('0  /x/a.qcow2  qcow2 in ova, "disk.vmdk", disk of 4 MiB')
    expect(text).toContain('broken: gone\n      find it\n')
    expect(text).toContain('merged into base.qcow2 on 1970')
    held = { mounted, layers: [{ ...sound, link: { level: 'odd', message: 'm', expected: 'a', found: 'b' } }] }
    expect((await said('/x/a.qcow2', true)).text).toContain('odd: m\n')
    held = { mounted, layers: [{ ...sound, link: { ...LAYER.link, expected: 'id-0' } }] }
    expect((await said('/x/a.qcow2', true)).text).toContain('it is without identity, expected id-0')
    held = { mounted, layers: [{ ...sound, identity: undefined, link: { ...LAYER.link, found: 'id-7' } }] }
    const strange = (await said('/x/a.qcow2', true)).text
    expect(strange).toContain('it is id-7, expected none')
    expect(strange).not.toContain('identity id-1')
    held = { mounted, layers: [{ ...LAYER, broken: { message: 'gone' } }] }
    expect((await said('/x/a.qcow2', true)).text).toMatch(/broken: gone\n(?! {6}find)/)
  })
})
