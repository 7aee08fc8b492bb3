import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { convertDisk, createDisk, finish, isVdiskError, openDisk } from '../../lib/index.ts'
import { sys } from '../../lib/io/sys.ts'
import { commandLineIn, interrupted, MAIN } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-safety')
const vdisk = commandLineIn(folder)
const at = (name: string): string => path.join(folder, name)

async function imageWithText(name: string, text: string): Promise<Buffer> {
  {
    await using disk = await createDisk(at(name), { format: 'vhdx', size: 4 << 20, replace: true })
    await disk.write(0, Buffer.from(text))
  }
  return fs.readFileSync(at(name))
}

function leftovers(): string[] {
  return fs.readdirSync(folder).filter((name) => name.includes('.partial'))
}

describe('--force replaces a file only by a complete one', () => {
  test('an image cannot become its own parent', async () => {
    const before = await imageWithText('golden.vhdx', 'precious')
    const made = vdisk('create', 'golden.vhdx', '--format', 'vhdx', '--parent', 'golden.vhdx', '--force')
    expect(made).toMatchObject({ code: 1, err: expect.stringContaining('it is that file itself, or built upon it') })
    expect(vdisk('create', 'leaf.vhdx', '--format', 'vhdx', '--parent', 'golden.vhdx').code).toBe(0)
    const around = vdisk('create', 'golden.vhdx', '--format', 'vhdx', '--parent', 'leaf.vhdx', '--force')
    expect(around).toMatchObject({ code: 1, err: expect.stringContaining('built upon it') })
    fs.copyFileSync(at('golden.vhdx'), at('copy.vhdx'))
    const converted = ['copy.vhdx', 'golden.vhdx', '-O', 'vhdx', '--force', '--parent']
    expect(vdisk('convert', ...converted, 'golden.vhdx')).toMatchObject({
      code: 1,
      err: expect.stringContaining('that file itself'),
    })
    expect(vdisk('convert', ...converted, 'leaf.vhdx').code).toBe(1)
    expect(fs.readFileSync(at('golden.vhdx')).equals(before)).toBe(true)
    expect(leftovers()).toEqual([])
  })

  test('a wrong option leaves the old file as it was', async () => {
    const before = await imageWithText('old.vhdx', 'precious')
    fs.chmodSync(at('old.vhdx'), 0o640)
    expect(vdisk('create', 'old.vhdx', '--format', 'qcow2', '--size', '1M', '-o', 'foo=1', '--force').code).toBe(1)
    expect(fs.readFileSync(at('old.vhdx')).equals(before)).toBe(true)
    expect(vdisk('create', 'old.vhdx', '--format', 'qcow2', '--size', '1M', '--force').code).toBe(0)
    expect(vdisk('info', 'old.vhdx', '--json').json().image.format).toBe('qcow2')
    expect(fs.statSync(at('old.vhdx')).mode & 0o777).toBe(0o640)
    expect(leftovers()).toEqual([])
  })

  test.runIf(sys())('an image that is in use is not replaced', async () => {
    const before = await imageWithText('used.vhdx', 'precious')
    await imageWithText('source.vhdx', 'other')
    await using _used = await openDisk(at('used.vhdx'), { writable: true })
    for (const args of [
      ['create', 'used.vhdx', '--format', 'vhdx', '--size', '1M', '--force'],
      ['convert', 'source.vhdx', 'used.vhdx', '--format', 'vhdx', '--force'],
    ]) {
      expect(vdisk(...args, '--json').json().error).toMatchObject({ code: 'IN_USE', where: { file: 'used.vhdx' } })
    }
    expect(fs.statSync(at('used.vhdx')).size).toBe(before.length)
  })

  test('a new layer never replaces a file', async () => {
    const before = await imageWithText('layer.vhdx', 'precious')
    await imageWithText('frozen.vhdx', 'state')
    const { code, err } = vdisk('snapshot', 'create', 'frozen.vhdx', '--to', 'layer.vhdx')
    expect([code, err]).toEqual([1, expect.stringContaining('Choose another name for the new layer.')])
    expect(fs.readFileSync(at('layer.vhdx')).equals(before)).toBe(true)
  })
})

describe('a parent in another folder', () => {
  test('is believed when the user names it, and announced for later', async () => {
    fs.mkdirSync(at('bases'))
    fs.mkdirSync(at('work'))
    await imageWithText('bases/base.vhdx', 'state')
    const made = vdisk('create', 'work/leaf.qcow2', '--format', 'qcow2', '--parent', 'bases/base.vhdx')
    expect(made).toMatchObject({ code: 0, err: expect.stringContaining(`--allow ${fs.realpathSync(at('bases'))}`) })
    expect(vdisk('info', 'work/leaf.qcow2', '--chain').code).toBe(1)
    expect(vdisk('info', 'work/leaf.qcow2', '--chain', '--allow', 'bases').out).toContain('verified')
    const flat = vdisk('convert', 'bases/base.vhdx', 'work/other.qcow2', '-O', 'qcow2', '--parent', 'bases/base.vhdx')
    expect(flat).toMatchObject({ code: 0, err: expect.stringContaining('from now on') })
    fs.mkdirSync(at('moved'))
    fs.renameSync(at('bases/base.vhdx'), at('moved/base.vhdx'))
    const relinked = vdisk('relink', 'work/leaf.qcow2', '--parent', 'moved/base.vhdx')
    expect(relinked).toMatchObject({ code: 0, err: expect.stringContaining(`--allow ${fs.realpathSync(at('moved'))}`) })
  })

  test('a chain that is too long for later is refused now, and nothing is left', () => {
    expect(vdisk('create', 'c0.qcow2', '-f', 'qcow2', '--size', '1M').code).toBe(0)
    expect(vdisk('create', 'c1.qcow2', '-f', 'qcow2', '--parent', 'c0.qcow2', '--max-depth', '1')).toMatchObject({
      code: 1,
      err: expect.stringContaining('more than 1 layers'),
    })
    expect(fs.existsSync(at('c1.qcow2'))).toBe(false)
  })
})

describe('resize by steps', () => {
  test('takes a minus as the manual says', () => {
    expect(vdisk('create', 'steps.qcow2', '-f', 'qcow2', '--size', '20M').code).toBe(0)
    expect(vdisk('resize', 'steps.qcow2', '-5M')).toMatchObject({ code: 1, err: expect.stringContaining('--shrink') })
    expect(vdisk('resize', 'steps.qcow2', '-5M', '--shrink').out).toContain('20 MiB \u2192 15 MiB')
    expect(vdisk('resize', 'steps.qcow2', '-1G', '--shrink')).toMatchObject({
      code: 2,
      err: expect.stringContaining('it has 15 MiB'),
    })
  })
})

describe('Ctrl-C', () => {
  test('ends a conversion inside one long run of data, with 130 and nothing left behind', async () => {
    const file = fs.openSync(at('long.raw'), 'w')
    // Text that shrinks slowly, so that there is time.
    const text = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => 65 + ((i * 7919 + (i >> 3)) % 57)))
    for (let i = 0; i < 96; i++) fs.writeSync(file, text)
    fs.closeSync(file)
    for (const signal of ['SIGINT', 'SIGHUP'] as const) {
      const args = ['convert', 'long.raw', 'long.qcow2', '-O', 'qcow2', '--compress', 'zlib', '--json']
      const { code, json } = await interrupted(folder, signal, ...args)
      expect([signal, code]).toEqual([signal, 130])
      expect(json()).toMatchObject({ schemaVersion: 1, error: { code: 'CANCELLED' } })
      expect(fs.readdirSync(folder).filter((name) => name.startsWith('long.'))).toEqual(['long.raw'])
    }
  })

  test('a job of which nobody wants to know more leaves nothing behind', async () => {
    await using source = await openDisk(at('long.raw'))
    const job = convertDisk(source.chain, at('left.qcow2'), { format: 'qcow2', compress: 'zlib' })
    const listen = (): void => {
      throw new Error('enough')
    }
    await expect(finish(job, listen)).rejects.toThrow('enough')
    expect(fs.readdirSync(folder).filter((name) => name.startsWith('left.'))).toEqual([])
  })

  test('cancels a job of the library inside one run too', async () => {
    await using source = await openDisk(at('long.raw'))
    const stop = new AbortController()
    const job = convertDisk(source.chain, at('never.raw'), { format: 'raw', signal: stop.signal })
    await job.next()
    stop.abort()
    const failure = await (async () => {
      for await (const _ of job);
    })().catch((error: unknown) => error)
    expect(isVdiskError(failure, 'CANCELLED')).toBe(true)
  })
})

test.runIf(sys())('two conversions into one file do not get into each other', async () => {
  const file = fs.openSync(at('twice.raw'), 'w')
  for (let i = 0; i < 16; i++) fs.writeSync(file, Buffer.alloc(1 << 20, i + 1))
  fs.closeSync(file)
  await using source = await openDisk(at('twice.raw'))
  const job = convertDisk(source.chain, at('twice.qcow2'), { format: 'qcow2', compress: 'zlib' })
  await job.next()
  expect(vdisk('convert', 'twice.raw', 'twice.qcow2', '-O', 'qcow2', '--json').json().error.code).toBe('IN_USE')
  for await (const _ of job);
  expect(vdisk('compare', 'twice.raw', 'twice.qcow2').code).toBe(0)
  // What a killed one left is in nobody's way.
  fs.writeFileSync(at('third.qcow2.partial'), 'left over')
  expect(vdisk('convert', 'twice.raw', 'third.qcow2', '-O', 'qcow2').code).toBe(0)
  expect(leftovers()).toEqual([])
})

const hasTerminal = spawnSync('script', ['--version']).status === 0

test.runIf(hasTerminal)('on a terminal a bar shows how far it is, and goes away', () => {
  fs.writeFileSync(at('long.raw'), Buffer.alloc(64 << 20, 'some text that shrinks well'))
  const line = `"${process.execPath}" "${MAIN}" convert long.raw shown.qcow2 -O qcow2 --compress zlib`
  const { stdout } = spawnSync('script', ['-qec', line, '/dev/null'], { cwd: folder, encoding: 'utf8' })
  expect(stdout).toMatch(/copy .*\d+%/)
  expect(stdout).toContain('Made shown.qcow2')
  // The cursor is there again.
  expect(stdout.lastIndexOf('\u001b[?25h')).toBeGreaterThan(stdout.lastIndexOf('\u001b[?25l'))
})

describe('output', () => {
  const sh = (script: string): { status: number | null; stdout: string; stderr: string } =>
    spawnSync('sh', ['-c', script.replaceAll('vdisk', `"${process.execPath}" "${MAIN}"`)], {
      cwd: folder,
      encoding: 'utf8',
    })

  test.runIf(fs.existsSync('/dev/full'))('that cannot be written is an error without a trace', () => {
    for (const line of ['vdisk --help', 'vdisk mounts --json', 'vdisk mounts']) {
      const { status, stderr } = sh(`${line} > /dev/full`)
      expect([line, status]).toEqual([line, 1])
      expect(stderr).toMatch(/no space left/)
      expect(stderr).not.toMatch(/\n {4}at /)
    }
  })

  test('has no colour in a pipe, and messages have no control characters', () => {
    const { stdout, stderr } = sh('vdisk info "$(printf \'a\\033[31m\')" --chain; vdisk --help')
    expect(`${stdout}${stderr}`).not.toContain('\u001b')
  })

  test('of a map that fails half-way is still one document', async () => {
    await imageWithText('half.vhdx', 'x')
    expect(vdisk('convert', 'half.vhdx', 'half.qcow2', '-O', 'qcow2', '-o', 'cluster_size=4K').code).toBe(0)
    expect(vdisk('resize', 'half.qcow2', '64M').code).toBe(0)
    const image = fs.readFileSync(at('half.qcow2'))
    // The last entry of the first-level table leads past the end of the file.
    const table = Number(image.readBigUInt64BE(40))
    image.writeBigUInt64BE((1n << 63n) | (1n << 50n), table + 8 * (image.readUInt32BE(36) - 1))
    fs.writeFileSync(at('half.qcow2'), image)
    const { code, json } = vdisk('map', 'half.qcow2', '--json')
    expect(code).toBe(1)
    expect(json()).toMatchObject({ image: 'half.qcow2', error: { code: 'CORRUPT' } })
    expect(json().extents.length).toBeGreaterThan(0)
  })
})

test('what is no image is told apart: a folder, a pipe, nothing at all, a circle of links', () => {
  fs.mkdirSync(at('dir'))
  fs.symlinkSync('loop-b', at('loop-a'))
  fs.symlinkSync('loop-a', at('loop-b'))
  fs.symlinkSync('gone', at('dangling'))
  for (const [name, why] of [
    ['dir', 'it is a directory'],
    ['/dev/null', 'it is neither a regular file nor a block device'],
    ['nothing', `${path.join(fs.realpathSync(folder), 'nothing')} was looked for`],
    ['loop-a', 'lead in a circle'],
    ['dangling', 'where it leads there is nothing: gone'],
  ] as const) {
    expect(vdisk('info', name)).toMatchObject({ code: 1, out: '', err: expect.stringContaining(why) })
  }
  fs.writeFileSync(at('notes.txt'), 'hello')
  expect(vdisk('info', 'notes.txt')).toMatchObject({ code: 0, err: expect.stringContaining('taken for raw') })
  expect(vdisk('info', 'notes.txt', '-f', 'raw').err).toBe('')
})

const loop = (...args: string[]): string => {
  const { status, stdout } = spawnSync('losetup', args, { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : ''
}

test.runIf(process.getuid?.() === 0 && loop('--find') !== '')(
  'a block device is overwritten only with --force, and only by a raw disk',
  async () => {
    fs.writeFileSync(at('device.img'), Buffer.alloc(4 << 20, 0xaa))
    await imageWithText('disk.vhdx', 'content')
    const device = loop('--find', '--show', at('device.img'))
    try {
      const forced = ['convert', 'disk.vhdx', device, '-O', 'raw', '--force']
      expect(vdisk(...forced.slice(0, -1))).toMatchObject({ code: 1, err: expect.stringContaining('would be lost') })
      expect(vdisk('create', device, '-f', 'qcow2', '--size', '1M', '--force')).toMatchObject({
        code: 1,
        err: expect.stringContaining('only raw disks'),
      })
      expect(fs.readFileSync(at('device.img')).every((byte) => byte === 0xaa)).toBe(true)
      expect(vdisk(...forced)).toMatchObject({ code: 0, err: '' })
      expect(vdisk('compare', 'disk.vhdx', device, '-F', 'raw').code).toBe(0)
    } finally {
      loop('--detach', device)
    }
  },
)
