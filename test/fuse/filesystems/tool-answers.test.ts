import fs from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { TableEntry } from '../../../fuse/doors/mount-table.ts'
import type { ToolResult } from '../../../fuse/doors/tool.ts'
import { type Attachment, undo } from '../../../fuse/filesystems/attachments.ts'
import { type MountRequest, mountFile } from '../../../fuse/filesystems/filesystem-drivers.ts'
import { attachLoop, detachLoop } from '../../../fuse/filesystems/loop-device.ts'
import type { FilesystemType } from '../../../lib/index.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

/** What programs are asked, as one line each; and what they answer, in turn. */
const asked: string[] = []
let answers: Partial<ToolResult>[] = []
let mounted: Partial<TableEntry> | undefined
let table: readonly TableEntry[] = []
let root = true

vi.mock('../../../fuse/doors/tool.ts', async (original) => ({
  ...(await original<object>()),
  runTool: async ({ command }: { command: string }, args: readonly string[]): Promise<ToolResult> => {
    asked.push([command, ...args].join(' '))
    return { status: 0, words: '', ...answers.shift() }
  },
}))
vi.mock('../../../fuse/doors/mount-table.ts', async (original) => ({
  ...(await original<object>()),
  mountedAt: () => mounted,
  readMountTable: () => table,
}))
vi.mock('../../../fuse/doors/mount.ts', async (original) => ({ ...(await original<object>()), isRoot: () => root }))

beforeEach(() => {
  asked.length = 0
  answers = []
  mounted = {}
  table = []
  root = true
})
afterEach(() => {
  vi.restoreAllMocks()
})

const free = (device: string): Partial<ToolResult> => ({ output: `${device}\n` })
const MISSING = { status: 127, words: 'it is not installed' }

/** The kernel says that a device stands for this file. */
function attached(file: () => string | undefined): void {
  const { readFileSync } = fs
  vi.spyOn(fs, 'readFileSync').mockImplementation(((name: string, ...rest: []) => {
    if (!String(name).startsWith('/sys/block/loop')) return readFileSync(name, ...rest)
    const held = file()
    if (held === undefined) throw new Error('no such device')
    return `${held}\n`
  }) as never)
}

describe('a loop device', () => {
  test('that another program takes first is left to it, and the next one is asked for', async () => {
    answers = [free('/dev/loop7'), { status: 1, words: 'Device or resource busy' }, free('/dev/loop8')]
    const noted: string[] = []
    const loop = await attachLoop('/disk', true, ({ device }) => noted.push(device))
    expect(loop).toEqual({ device: '/dev/loop8', file: '/disk' })
    // Whoever cleans up must know of both.
    expect(noted).toEqual(['/dev/loop7', '/dev/loop8'])
    expect(asked.at(-1)).toBe('losetup --read-only /dev/loop8 /disk')
  })

  test.each<[string, Partial<ToolResult>[], string, string]>([
    ['that none is free', [{ status: 1, words: 'no device' }], 'REFUSED', 'losetup --list'],
    ['that it may not', [free('/dev/loop7'), { status: 1, words: 'Permission denied' }], 'REFUSED', 'In a container'],
    ['nothing: it is not there', [MISSING], 'UNSUPPORTED', 'apt install mount'],
    [
      'that each is busy, ten times',
      Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? free('/dev/loop7') : { status: 1, words: 'busy' })),
      'REFUSED',
      'losetup --list',
    ],
  ])('is not had where losetup says %s', async (_, said, code, advice) => {
    answers = said
    const error = await refusal(() => attachLoop('/disk', false, () => {}))
    expect(error).toMatchObject({ code, where: { file: '/disk' }, advice: expect.stringContaining(advice) })
    expect(asked.length).toBeLessThanOrEqual(20)
  })

  test('is given back where it stands for the file, and for no other', async () => {
    let file: string | undefined = '/another'
    attached(() => file)
    await detachLoop({ device: '/dev/loop7', file: '/disk' }, 'now')
    expect(asked).toEqual([])
    file = '/disk'
    await detachLoop({ device: '/dev/loop7', file: '/disk' }, 'lazy')
    expect(asked).toEqual(['losetup --detach /dev/loop7'])
    // Beneath a mount that was detached lazily: from the root of that.
    file = '/nowhere/to/be/found'
    await detachLoop({ device: '/dev/loop7', file: '/mnt/nowhere/to/be/found' }, 'lazy')
    expect(asked).toHaveLength(2)
    // It is gone all the same.
    attached(() => (asked.length > 2 ? undefined : '/disk'))
    answers = [{ status: 1, words: 'No such device' }]
    await detachLoop({ device: '/dev/loop7', file: '/disk' }, 'now')
    expect(asked).toHaveLength(3)
  })

  test.each<[Partial<ToolResult>, string | undefined]>([
    [{ status: 1, words: 'Operation not permitted' }, undefined],
    [MISSING, 'Run: apt install mount'],
  ])('that cannot be given back is told: %j', async (answer, advice) => {
    attached(() => '/disk')
    answers = [answer]
    const error = await refusal(() => detachLoop({ device: '/dev/loop7', file: '/disk' }, 'now'))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: '/dev/loop7' }, advice })
    expect(error.message).toBe(`Cannot detach /dev/loop7: ${answer.words}`)
  })
})

/** A file that begins as one with ext4, of which the journal is to be replayed or not. */
function withJournal(dirty: boolean): string {
  const file = path.join(scratchFolder(), 'disk')
  const bytes = Buffer.alloc(4096)
  bytes.writeUInt32LE(dirty ? 4 : 0, 1024 + 0x60)
  fs.writeFileSync(file, bytes)
  return file
}

describe('a file system', () => {
  const steps: Attachment[] = []
  const request = (type: FilesystemType, more: Partial<MountRequest> = {}): MountRequest => ({
    file: '/disk',
    type,
    at: '/mnt/at',
    readOnly: false,
    allowOther: false,
    name: 'partition 2 of disk.vhdx',
    note: (step) => steps.push(step),
    ...more,
  })
  beforeEach(() => {
    steps.length = 0
  })

  test('is mounted for root by the kernel, by the name that its driver has there', async () => {
    answers = [free('/dev/loop7')]
    expect(await mountFile(request('ntfs', { readOnly: true }))).toEqual({ driver: 'kernel', notes: [] })
    expect(asked.at(-1)).toBe('mount -i -t ntfs3 -o nosuid,nodev,ro /dev/loop7 /mnt/at')
    expect(steps.map(({ kind }) => kind)).toEqual(['loop', 'mount'])
    answers = [free('/dev/loop7')]
    await mountFile(request('xfs'))
    expect(asked.at(-1)).toBe('mount -i -t xfs -o nosuid,nodev,nouuid /dev/loop7 /mnt/at')
  })

  test('that the kernel shows read-only although it was to be written says why, and what to do', async () => {
    mounted = { readOnly: true }
    answers = [free('/dev/loop7'), {}, { words: 'volume is dirty' }]
    const { notes } = await mountFile(request('ntfs'))
    expect(notes).toEqual([expect.stringMatching(/^The driver has mounted it read-only: volume is dirty\. If Windows/)])
    answers = [free('/dev/loop7'), {}, { words: 'it is dirty' }]
    expect((await mountFile(request('ext4'))).notes).toEqual(['The driver has mounted it read-only: it is dirty'])
  })

  test('that was not unmounted is looked at as it is, where it is only to be read', async () => {
    answers = [free('/dev/loop7'), {}, { status: 32, words: 'needs recovery' }]
    const { notes } = await mountFile(request('ext4', { readOnly: true }))
    expect(asked.at(-1)).toContain('ro,noload')
    expect(notes).toEqual([expect.stringContaining('its journal is not replayed')])
    for (const [type, readOnly, more] of [
      ['ext4', false, []],
      ['vfat', true, []],
      ['ext4', true, [{ status: 32, words: 'no' }]],
    ] as const) {
      answers = [free('/dev/loop7'), {}, { status: 32, words: '/mnt/at: bad superblock.' }, ...more]
      const error = await refusal(() => mountFile(request(type, { readOnly })))
      expect([error.code, error.message]).toEqual([
        'REFUSED',
        'Cannot mount the file system of partition 2 of disk.vhdx: mount: bad superblock.',
      ])
      expect(error.advice).toContain('The kernel says more: dmesg')
    }
  })

  test('that the kernel does not know is shown by a program, if there is one', async () => {
    const unknown = { status: 32, words: "unknown filesystem type 'squashfs'" }
    answers = [free('/dev/loop7'), {}, unknown]
    expect((await mountFile(request('squashfs'))).driver).toBe('squashfuse')
    expect(steps.at(-1)).toMatchObject({ kind: 'fuse', driver: 'squashfuse' })
    answers = [free('/dev/loop7'), {}, { ...unknown, words: 'unknown filesystem type' }]
    const error = await refusal(() => mountFile(request('btrfs')))
    expect([error.code, error.advice]).toEqual(['UNSUPPORTED', 'Load one: modprobe'])
  })

  test('is shown by a program where there are no loop devices, as in containers; one that needs them is not', async () => {
    answers = [{ status: 1, words: 'no device' }]
    expect((await mountFile(request('squashfs'))).driver).toBe('squashfuse')
    for (const type of ['exfat', 'xfs'] as const) {
      answers = [{ status: 1, words: 'no device' }]
      expect((await refusal(() => mountFile(request(type)))).message).toContain('Cannot make a block device')
    }
  })

  test('for any user is shown by a program, with what that is to be asked', async () => {
    root = false
    await mountFile(request('vfat', { allowOther: true }))
    expect(asked.at(-1)).toBe('fusefat /disk /mnt/at -o rw+,allow_other')
    await mountFile(request('squashfs'))
    expect(asked.at(-1)).toBe('squashfuse /disk /mnt/at')
    await mountFile(request('ntfs', { readOnly: true }))
    expect(asked.at(-1)).toBe('ntfs-3g /disk /mnt/at -o ro,no_def_opts,silent')
    for (const type of ['xfs', 'exfat'] as const) {
      const error = await refusal(() => mountFile(request(type)))
      expect([error.code, error.message]).toEqual(['UNSUPPORTED', expect.stringContaining('only root may use')])
    }
  })

  test('whose journal holds something has that replayed before it is written, and not where it is read', async () => {
    root = false
    const file = withJournal(true)
    const { notes } = await mountFile(request('ext4', { file }))
    expect(asked).toEqual([`e2fsck -p -E journal_only ${file}`, `fuse2fs ${file} /mnt/at -o fakeroot`])
    expect(notes).toEqual([expect.stringContaining('replayed by e2fsck')])
    expect((await mountFile(request('ext4', { file, readOnly: true }))).notes).toEqual([
      expect.stringContaining('is not replayed'),
    ])
    expect((await mountFile(request('ext3', { file: withJournal(false) }))).notes).toEqual([])
    answers = [{ status: 8, words: 'cannot open' }]
    const error = await refusal(() => mountFile(request('ext4', { file })))
    expect([error.code, error.message]).toEqual(['REFUSED', expect.stringContaining('e2fsck: cannot open')])
  })

  test('that its program does not show is refused with its words', async () => {
    root = false
    answers = [MISSING]
    expect(await refusal(() => mountFile(request('squashfs')))).toMatchObject({
      code: 'UNSUPPORTED',
      advice: 'Run: apt install squashfuse',
    })
    answers = [{ status: 1, words: "option allow_other only if 'user_allow_other' is set" }]
    expect((await refusal(() => mountFile(request('squashfs', { allowOther: true })))).advice).toContain(
      '/etc/fuse.conf',
    )
    answers = [{ status: 1, words: 'Permission denied' }]
    expect((await refusal(() => mountFile(request('ntfs')))).advice).toContain('Or mount as root')
    answers = [{ status: 1, words: 'Failed' }]
    expect((await refusal(() => mountFile(request('ntfs')))).advice).toMatch(/^If Windows .* for ntfsfix\.$/)
    // It says that it works, and nothing is there.
    mounted = undefined
    answers = [{ words: 'gone' }]
    expect((await refusal(() => mountFile(request('squashfs')))).advice).toContain('for fsck.')
  })
})

describe('what lies on a disk', () => {
  const entry = (mountpoint: string, more: Partial<TableEntry> = {}): TableEntry => ({
    mountpoint,
    type: 'ext4',
    source: '/dev/loop7',
    readOnly: false,
    device: '7:7',
    ...more,
  })
  const kernel = { kind: 'mount', at: '/mnt/at', type: 'ext4', source: '/dev/loop7' } as const
  const program = { kind: 'fuse', at: '/mnt/at', type: 'ext4', driver: 'no-such-driver' } as const

  test('is written back before it is unmounted, and what was lost is told', async () => {
    table = [entry('/mnt/at')]
    answers = [{ status: 1, words: 'sync: error syncing: Input/output error' }]
    expect(await undo([kernel])).toEqual(['sync: error syncing: Input/output error'])
    expect(asked).toEqual(['sync --file-system -- /mnt/at', 'umount -- /mnt/at'])
  })

  test('by a program that has ended is given up at once, and that is told', async () => {
    table = [entry('/mnt/at', { type: 'fuse.no-such-driver', source: '/disk' })]
    expect(await undo([program])).toEqual(['no-such-driver had ended before'])
    expect(asked).toEqual(['umount -l -- /mnt/at'])
    asked.length = 0
    // What is given up lazily has nobody to ask.
    expect(await undo([kernel], 'lazy')).toEqual([])
    expect(asked).toEqual([])
  })

  test('stays where a program uses it, or something else lies above it', async () => {
    table = [entry('/mnt/at')]
    answers = [{}, { status: 32, words: 'target is busy' }]
    const used = await refusal(() => undo([kernel]))
    expect([used.code, used.advice]).toEqual(['IN_USE', expect.stringContaining('fuser -vm /mnt/at')])
    table = [entry('/mnt/at'), entry('/mnt/at/inner', { source: 'other' })]
    answers = [{}, { status: 32, words: 'target is busy' }]
    expect((await refusal(() => undo([kernel]))).message).toContain('something is mounted at /mnt/at/inner')
    table = [entry('/mnt/at'), entry('/mnt/at', { type: 'tmpfs', source: 'tmpfs' })]
    const above = await refusal(() => undo([kernel]))
    expect([above.code, above.message]).toEqual(['IN_USE', expect.stringContaining('above it, of type tmpfs')])
    table = [entry('/mnt/at')]
    answers = [{}, { status: 32, words: 'not permitted' }]
    expect((await refusal(() => undo([kernel]))).code).toBe('REFUSED')
  })
})
