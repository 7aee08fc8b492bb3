import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { inspectMountpoint, type Mountpoint, mount, unmount } from '../../../fuse/doors/mount.ts'
import { parseMountTable } from '../../../fuse/doors/mount-table.ts'
import type { ToolResult } from '../../../fuse/doors/tool.ts'
import { sys } from '../../../lib/io/sys.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const asked: string[] = []
let answer: Partial<ToolResult> = {}

vi.mock('../../../fuse/doors/tool.ts', async (original) => ({
  ...(await original<object>()),
  runTool: async ({ command }: { command: string }, args: readonly string[]): Promise<ToolResult> => {
    asked.push([command, ...args].join(' '))
    return { status: 0, words: '', ...answer }
  },
}))

const { platform } = process

beforeEach(() => {
  asked.length = 0
  answer = {}
})
afterEach(() => {
  vi.restoreAllMocks()
  Object.defineProperty(process, 'platform', { value: platform })
})

const as = (user: number): void => void vi.spyOn(process, 'geteuid').mockReturnValue(user)
const MISSING = { status: 127, words: 'fusermount3 is not installed' }

describe('a place to mount on', () => {
  test('is an empty directory or a file, and what else it is, is said', async () => {
    const folder = scratchFolder()
    const at = (name: string): string => path.join(folder, name)
    fs.mkdirSync(at('empty'))
    fs.mkdirSync(at('full'))
    fs.writeFileSync(at('full/file'), '')
    spawnSync('mkfifo', [at('pipe')])
    expect(inspectMountpoint(at('empty'))).toEqual({ path: at('empty'), kind: 'directory' })
    expect(inspectMountpoint(at('full/file'))).toEqual({ path: at('full/file'), kind: 'file' })
    for (const [name, code, why] of [
      ['full', 'REFUSED', 'is not empty'],
      ['pipe', 'REFUSED', 'neither a directory nor a regular file'],
      ['none', 'NOT_FOUND', 'it does not exist'],
      ['full/file/deeper', 'REFUSED', 'ENOTDIR'],
    ] as const) {
      const error = await refusal(async () => inspectMountpoint(at(name)))
      expect([error.code, error.message, error.where.file]).toEqual([code, expect.stringContaining(why), at(name)])
    }
    vi.spyOn(fs, 'statSync').mockImplementation(() => {
      throw Object.assign(new Error('EACCES'), { code: 'EACCES' })
    })
    expect((await refusal(async () => inspectMountpoint(at('empty')))).message).toContain('permission denied')
  })
})

describe('unmounting', () => {
  test.each([
    [0, 'now', 'linux', 'umount -- /mnt'],
    [0, 'lazy', 'linux', 'umount -l -- /mnt'],
    [1000, 'now', 'linux', 'fusermount3 -u -- /mnt'],
    [1000, 'lazy', 'linux', 'fusermount3 -u -z -- /mnt'],
    [1000, 'now', 'darwin', 'umount -- /mnt'],
    [1000, 'lazy', 'darwin', 'umount -f -- /mnt'],
  ] as const)('as user %i, %s, on %s', async (user, how, system, line) => {
    as(user)
    Object.defineProperty(process, 'platform', { value: system })
    await unmount('/mnt', how)
    expect(asked).toEqual([line])
  })

  test.each<[number, Partial<ToolResult>, string, string, string | undefined]>([
    [0, { status: 32, words: 'target is busy.' }, 'IN_USE', 'it is in use', 'fuser -vm /mnt'],
    [0, { status: 32, words: 'not mounted' }, 'REFUSED', 'not mounted', undefined],
    [1000, { status: 1, words: 'Permission denied' }, 'REFUSED', 'another user has mounted it', 'as root'],
    [1000, MISSING, 'UNSUPPORTED', 'is not installed', 'Run: apt install fuse3'],
  ])('as user %i where it is said %j', async (user, said, code, why, advice) => {
    as(user)
    answer = said
    const error = await refusal(() => unmount('/mnt'))
    expect(error).toMatchObject({ code, where: { file: '/mnt' } })
    expect(error.message).toContain(why)
    if (advice === undefined) expect(error.advice).toBeUndefined()
    else expect(error.advice).toContain(advice)
  })
})

describe('mounting', () => {
  const place: Mountpoint = { path: '/mnt', kind: 'directory' }
  const flags = { source: 'a,b.qcow2', readOnly: true, allowOther: true }

  beforeEach(() => {
    const { existsSync, openSync } = fs
    vi.spyOn(fs, 'existsSync').mockImplementation((file) => file === '/dev/fuse' || existsSync(file))
    vi.spyOn(fs, 'openSync').mockImplementation((file, ...rest) =>
      openSync(file === '/dev/fuse' ? '/dev/null' : file, ...rest),
    )
  })

  test('is for little-endian Linux with FUSE', async () => {
    Object.defineProperty(process, 'platform', { value: 'win32' })
    expect(await refusal(() => mount(place, flags))).toMatchObject({ code: 'UNSUPPORTED' })
    Object.defineProperty(process, 'platform', { value: 'linux' })
    vi.spyOn(fs, 'existsSync').mockReturnValue(false)
    const error = await refusal(() => mount(place, flags))
    expect([error.code, error.advice]).toEqual(['UNSUPPORTED', expect.stringContaining('modprobe fuse')])
  })

  test('as root is done by mount, without a helper, and the descriptor is closed where it fails', async () => {
    as(0)
    for (const kind of ['directory', 'file'] as const) {
      fs.closeSync(await mount({ path: '/mnt', kind }, flags))
      const mode = kind === 'file' ? '100000' : '40000'
      expect(asked.at(-1)).toBe(
        `mount -i -t fuse.vdisk -o fd=3,rootmode=${mode},user_id=0,group_id=0,nosuid,nodev,default_permissions,allow_other,ro a,b.qcow2 /mnt`,
      )
    }
    const close = vi.spyOn(fs, 'closeSync')
    for (const [words, advice] of [
      ['permission denied', 'In a container, mounting needs --cap-add SYS_ADMIN.'],
      ['wrong fs type', undefined],
    ] as const) {
      answer = { status: 32, words }
      expect(await refusal(() => mount(place, flags))).toMatchObject({ code: 'REFUSED', advice })
    }
    expect(close).toHaveBeenCalledTimes(2)
    vi.spyOn(fs, 'openSync').mockImplementation(() => {
      throw new Error("EACCES: permission denied, open '/dev/fuse'")
    })
    expect((await refusal(() => mount(place, flags))).advice).toBe('Ask root for: chmod 666 /dev/fuse')
  })

  test.skipIf(!sys())('as a user is done by fusermount3, whose words say what is missing', async () => {
    as(1000)
    const plain = { source: 'a,b\\c.qcow2', readOnly: false, allowOther: false }
    for (const [said, code, advice] of [
      [MISSING, 'UNSUPPORTED', 'Run: apt install fuse3'],
      [
        { status: 1, words: "option allow_other only allowed if 'user_allow_other' is set" },
        'REFUSED',
        'Add the line user_allow_other to /etc/fuse.conf, or mount as root.',
      ],
      [
        { status: 1, words: 'user has no write access to mountpoint' },
        'REFUSED',
        'The mountpoint must belong to you, and you must be allowed to write to it.',
      ],
    ] as const) {
      answer = said
      expect(await refusal(() => mount(place, plain))).toMatchObject({ code, advice, where: { file: '/mnt' } })
    }
    expect(asked.at(-1)).toBe('fusermount3 -o fsname=a\\,b\\\\c.qcow2,subtype=vdisk,default_permissions -- /mnt')
  })
})

test('a line of the table of mounts that is cut short says what it says, and no more', () => {
  const [whole, short, ...rest] = parseMountTable(
    '36 35 0:52 / /mnt\\040a rw,nosuid shared:1 - fuse.vdisk /a\\040b.qcow2 rw,user_id=0\n36 35 - \n\nrubbish\n',
  )
  expect(whole).toEqual({
    mountpoint: '/mnt a',
    type: 'fuse.vdisk',
    source: '/a b.qcow2',
    readOnly: false,
    device: '0:52',
  })
  expect(short).toEqual({ mountpoint: '', type: '', source: '', readOnly: false, device: '' })
  expect(rest).toEqual([])
})
