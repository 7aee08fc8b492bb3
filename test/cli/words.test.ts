import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { addBitmap, createDisk, createInternalSnapshot, finish, mergeImage, openDisk } from '../../lib/index.ts'
import { commandLineIn, MAIN } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-words')
const at = (name: string): string => path.join(folder, name)
const vdisk = commandLineIn(folder)
const MiB = 1 << 20

async function make(name: string, options: { parent?: string; size?: number } = {}): Promise<void> {
  const format = path.extname(name).slice(1)
  const { parent, size = 4 * MiB } = options
  const shape = parent === undefined ? { size } : { parent: at(parent) }
  await (await createDisk(at(name), { format, ...shape })).close()
}

async function write(name: string, offset: number, length: number, byte: number): Promise<void> {
  const format = path.extname(name).slice(1)
  await using disk = await openDisk(at(name), { writable: true, format })
  await disk.write(offset, Buffer.alloc(length, byte))
}

describe('what info says to people', () => {
  test('of snapshots and bitmaps, of files that are packed, and of one that somebody writes to', async () => {
    await make('rich.qcow2')
    await createInternalSnapshot(at('rich.qcow2'), 'before\u001b[31m')
    await addBitmap(at('rich.qcow2'), 'nightly')
    await addBitmap(at('rich.qcow2'), 'resting', { enabled: false })
    const { out } = vdisk('info', 'rich.qcow2')
    expect(out).toMatch(/^snapshot {2}1 {2}before\?\[31m {2}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}4 MiB$/m)
    expect(out).toMatch(/^bitmap {4}nightly {2}every 64 KiB {2}recording$/m)
    expect(out).toMatch(/^bitmap {4}resting {2}every 64 KiB {2}not recording$/m)
    await using disk = await openDisk(at('rich.qcow2'), { writable: true })
    await disk.write(0, Buffer.alloc(512, 1))
    await disk.flush()
    const used = vdisk('info', 'rich.qcow2').out
    expect(used).toMatch(/^in use +another program has it open for writing/m)
    expect(used).toContain('bitmap    nightly  every 64 KiB  not saved by its last writer')
    await disk.close()
    fs.writeFileSync(at('rich.qcow2.gz'), gzipSync(fs.readFileSync(at('rich.qcow2'))))
    expect(vdisk('info', 'rich.qcow2.gz').out).toMatch(/^packed +gzip$/m)
    expect(vdisk('info', 'rich.qcow2.gz', '--chain').out).toContain('qcow2 in gzip, disk of 4 MiB')
  })

  test('of a chain: what is below, what was merged, what does not match, and what is gone', async () => {
    await make('base.qcow2')
    await make('middle.qcow2', { parent: 'base.qcow2' })
    await make('leaf.qcow2', { parent: 'middle.qcow2' })
    await write('middle.qcow2', 0, 4096, 1)
    const strange = vdisk('info', 'leaf.qcow2', '--chain', '--verify', 'warn')
    expect(strange.out).toMatch(/\u2193 {2}mismatch: /)
    expect(strange.out).toMatch(/^ {6}it is [0-9a-f-]{36}\/\d+, expected [0-9a-f-]{36}\/\d+$/m)
    expect(vdisk('info', 'leaf.qcow2').out).toMatch(/^parent +middle\.qcow2 \(qcow2\)$/m)
    await make('floor.qcow2')
    await make('child.qcow2', { parent: 'floor.qcow2' })
    await finish(mergeImage(at('child.qcow2'), {}))
    expect(vdisk('info', 'child.qcow2').out).toMatch(/^merged +into .*floor\.qcow2 on \d{4}-.*: this file is history$/m)
    expect(vdisk('info', 'child.qcow2', '--chain').out).toContain('this file is history')
    fs.rmSync(at('middle.qcow2'))
    const broken = vdisk('info', 'leaf.qcow2', '--chain')
    expect(broken.code).toBe(1)
    expect(broken.out).toMatch(/\u2193 {2}broken: .*middle\.qcow2/)
  })

  test('of a file of no known format: what it is taken for', () => {
    fs.writeFileSync(at('any.img'), Buffer.alloc(5000, 1))
    expect(vdisk('info', 'any.img')).toMatchObject({ code: 0, err: expect.stringContaining('so it is taken for raw') })
    expect(vdisk('info', 'any.img', '-f', 'raw').err).toBe('')
    expect(vdisk('info', 'any.img', '--chain', '--partitions')).toMatchObject({
      code: 2,
      err: expect.stringContaining('exclude each other'),
    })
  })
})

test('what compare says of disks that are equal, that differ, and that are of different sizes', async () => {
  for (const name of ['a.qcow2', 'b.vhdx']) {
    await make(name)
    await write(name, MiB, 65_536, 1)
  }
  expect(vdisk('compare', 'a.qcow2', 'b.vhdx')).toMatchObject({ code: 0, out: 'The disks read the same.\n' })
  await write('b.vhdx', MiB + 4096, 4096, 2)
  await write('b.vhdx', 3 * MiB, 4096, 3)
  const all = vdisk('compare', 'a.qcow2', 'b.vhdx', '--all')
  expect(all.code).toBe(1)
  expect(all.out.split('\n').map((line) => line.trim())).toEqual([
    `${MiB + 4096}             4096  differs`,
    `${3 * MiB}             4096  differs`,
    `The disks differ, first at ${MiB + 4096}.`,
    '',
  ])
  expect(vdisk('compare', 'a.qcow2', 'b.vhdx', '--all', '--json').json().ranges).toEqual([
    { offset: MiB + 4096, length: 4096 },
    { offset: 3 * MiB, length: 4096 },
  ])
  await make('small.raw', { size: MiB })
  expect(vdisk('compare', 'a.qcow2', 'small.raw', '-F', 'raw')).toMatchObject({
    code: 1,
    err: expect.stringContaining('the sizes differ: 4 MiB and 1 MiB'),
  })
})

test('what map says: each range, where it lies, and with --data only what holds some', async () => {
  await make('mapped.qcow2')
  await write('mapped.qcow2', MiB, 65_536, 1)
  const rows = (text: string): string[][] => text.split('\n').map((line) => line.trim().split(/ {2,}| /))
  const all = rows(vdisk('map', 'mapped.qcow2').out)
  expect(all.map(([offset, length, kind]) => [offset, length, kind])).toEqual([
    ['offset', 'length', 'kind'],
    ['0', '1048576', 'zero'],
    ['1048576', '65536', 'data'],
    ['1114112', '3080192', 'zero'],
    ['64', 'KiB', 'of'],
    ['', undefined, undefined],
  ])
  expect(rows(vdisk('map', 'mapped.qcow2', '--data').out).filter(([, , kind]) => kind === 'zero')).toEqual([])
  expect(vdisk('map', 'mapped.qcow2', '--data', '--json').json().extents).toHaveLength(1)
})

test('what merge plans: what is to be copied, how the disk grows, and what is history', async () => {
  await make('low.qcow2', { size: 2 * MiB })
  await make('high.qcow2', { parent: 'low.qcow2' })
  await make('above.qcow2', { parent: 'high.qcow2' })
  expect(vdisk('resize', 'high.qcow2', '4M', '--force').code).toBe(0)
  const { out } = vdisk('merge', 'high.qcow2', '--plan', '--force')
  expect(out).toMatch(/^merged +.*high\.qcow2$/m)
  expect(out).toMatch(/^disk size +2 MiB becomes 4 MiB$/m)
  expect(out).toMatch(/^to copy +at most /m)
})

describe('what track says', () => {
  test('of a disk that is tracked: since when, for whom, and what is wrong', async () => {
    await make('t.qcow2')
    const enabled = vdisk('track', 'enable', 't.qcow2', '--required')
    expect(enabled.err).toContain('to see what changed since: vdisk track changes t.qcow2 --since vdisk1-')
    const token = vdisk('track', 'checkpoint', 't.qcow2', '--consumer', 'nightly').out.trim()
    await write('t.qcow2', 0, 65_536, 1)
    await write('t.qcow2', 2 * MiB, 65_536, 1)
    expect(vdisk('track', 'changes', 't.qcow2', '--since', token).out).toBe('0 65536\n2097152 65536\n')
    expect(vdisk('track', 'changes', 't.qcow2', '--consumer', 'nightly', '--count').out).toBe(
      '2 ranges, 128 KiB of 4 MiB\n',
    )
    expect(vdisk('track', 'changes', 't.qcow2')).toMatchObject({
      out: '0 4194304\n',
      err: expect.stringContaining('all of the disk counts as changed: no token was given'),
    })
    const status = vdisk('track', 'status', 't.qcow2').out
    expect(status).toMatch(/^tracked since {2}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, required$/m)
    expect(status).toMatch(/^consumer {7}nightly, last at /m)
    expect(vdisk('track', 'disable', 't.qcow2', '--consumer', 'nightly').out).toContain('Forgot nightly')
    fs.utimesSync(at('t.qcow2'), 5, 5)
    expect(vdisk('track', 'status', 't.qcow2').out).toMatch(/^problem {8}all of the disk counts as changed: another/m)
    expect(vdisk('track', 'disable', 't.qcow2').out).toBe('Changes of t.qcow2 are not recorded any more.\n')
    expect(vdisk('track', 'status', 't.qcow2').code).toBe(1)
  })
})

describe('what is said of backups', () => {
  test('where to and how many: what cannot be meant', async () => {
    await make('k.qcow2')
    for (const [words, why] of [
      [['k.qcow2'], 'it is not said where to'],
      [['k.qcow2', 'kept', '--into', 'one.qcow2'], 'to a folder and --into an image at once'],
      [['k.qcow2', '--into', 'one.qcow2', '--keep', '3'], 'one image has one state'],
      [['k.qcow2', 'kept', '--keep', '0'], '--keep is a number from 1, not "0"'],
      [['k.qcow2', 'kept', '--rate', '0'], 'Cannot understand --rate "0"'],
      [['k.qcow2', 'kept', '--rate', 'fast'], 'Cannot understand --rate "fast"'],
    ] as const)
      expect(vdisk('backup', ...words), words.join(' ')).toMatchObject({ code: 2, err: expect.stringContaining(why) })
    expect(fs.existsSync(at('kept'))).toBe(false)
  })

  test('of what differs: the first ranges, and how many more; of samples, that they are', async () => {
    await make('many.raw')
    for (let i = 0; i < 24; i++) await write('many.raw', i * 131_072, 65_536, 1)
    expect(vdisk('backup', 'many.raw', 'held', '-f', 'raw').err).toContain('its changes are not tracked')
    expect(vdisk('verify', 'held', '--quick').out).toMatch(/^Backup 1: samples read as they must/)
    for (let i = 0; i < 24; i++) await write('many.raw', i * 131_072, 512, 2)
    const { code, out, err } = vdisk('verify', 'held', 'many.raw', '-f', 'raw', '--rate', '1G')
    expect(code).toBe(1)
    expect(err).toContain('what changed since the backup is not known')
    expect(out).toContain('The disk differs from its backup in 1.5 MiB: it may have been written to since')
    expect(out.trimEnd().split('\n').slice(-2)).toEqual(['  1179648 65536', '  and 14 more ranges'])
    expect(vdisk('restore', 'held', 'no-ending', '--no-check').out).toMatch(/to no-ending: qcow2, [^,]*$/m)
    expect(vdisk('restore', 'held', 'as.avhdx').out).toContain('to as.avhdx: vhdx')
    await write('many.raw', 0, 512, 3)
    const second = vdisk('backup', 'many.raw', 'held', '-f', 'raw', '--no-check', '--keep', '1')
    expect(second.out).toContain('Merged away: backup 1.')
    expect(vdisk('backups', 'held').out).toMatch(/^1 backup of .*\n.*not read back\n$/)
  })
})

test('of thousands of ranges a map tells each, also to a reader that is slow', async () => {
  await make('holes.raw', { size: 16 * MiB })
  {
    await using disk = await openDisk(at('holes.raw'), { writable: true, format: 'raw' })
    for (let i = 0; i < 2000; i++) await disk.write(i * 8192, Buffer.alloc(4096, 1))
  }
  const script = '"$1" "$2" map holes.raw -f raw --json | { read -r line; echo "$line"; cat; }'
  const { stdout } = spawnSync('sh', ['-c', script, 'sh', process.execPath, MAIN], { cwd: folder, encoding: 'utf8' })
  const { extents } = JSON.parse(stdout)
  let end = 0
  for (const { offset, length } of extents) {
    expect(offset).toBe(end)
    end += length
  }
  expect([extents.length > 2000, end]).toEqual([true, 16 * MiB])
})

test('of thousands of findings and mended places the first are shown, and how many there are', async () => {
  await (await createDisk(at('torn.vhd'), { format: 'vhd', size: 16 * MiB, options: { block_size: '4K' } })).close()
  const file = fs.openSync(at('torn.vhd'), 'r+')
  const header = Buffer.alloc(1024)
  fs.readSync(file, header, 0, 1024, 512)
  // Every second entry of the BAT leads past the end of the file.
  const table = Buffer.alloc(4 * 4096, 0xff)
  for (let block = 0; block < 4096; block += 2) table.writeUInt32BE(0x7fffffff, block * 4)
  fs.writeSync(file, table, 0, table.length, Number(header.readBigUInt64BE(16)))
  fs.closeSync(file)
  const { code, out } = vdisk('check', 'torn.vhd')
  expect([code, out.match(/BLOCK_PAST_END/g)?.length]).toEqual([2, 1000])
  expect(out).toContain('... and 1048 more of the kind\n')
  const dry = vdisk('check', 'torn.vhd', '--repair', '--dry-run')
  expect([dry.code, dry.out.match(/would mend/g)?.length]).toEqual([0, 1000])
  expect(dry.out).toContain('... and 1048 more of the kind\n')
})

test('what is said where there is nothing', async () => {
  await make('bare.qcow2')
  expect(vdisk('bitmap', 'list', 'bare.qcow2').out).toBe('No bitmaps.\n')
  expect(vdisk('snapshot', 'list', 'bare.qcow2').out).toBe('No snapshots inside, no layers below.\n')
  expect(vdisk('check', 'bare.qcow2', '--repair', 'all', '--dry-run').out).toContain('There is nothing to repair.')
  for (const [words, advice] of [
    [['list', 'bare.qcow2', '--to', 'x'], 'vdisk snapshot list IMAGE\n'],
    [['delete', 'bare.qcow2', 'one', '--to', 'x'], 'vdisk snapshot delete IMAGE NAME\n'],
    [['create', 'bare.qcow2'], 'or --to FILE for a new layer'],
    [['delete', 'bare.qcow2'], 'vdisk snapshot delete IMAGE NAME'],
  ] as const)
    expect(vdisk('snapshot', ...words), words.join(' ')).toMatchObject({
      code: 2,
      err: expect.stringContaining(advice),
    })
})

describe('a failure', () => {
  test('tells where it came from when it is asked to', () => {
    const debugged = commandLineIn(folder, { env: { ...process.env, VDISK_DEBUG: '1' } })
    expect(debugged('info', 'missing.qcow2').err).toMatch(/\n +at /)
    expect(vdisk('info', 'missing.qcow2').err).not.toMatch(/\n +at /)
  })

  test('to write what there is to say is one', () => {
    const full = fs.openSync('/dev/full', 'w')
    try {
      const { status, stderr } = spawnSync(process.execPath, [MAIN, 'help'], {
        stdio: ['ignore', full, 'pipe'],
        encoding: 'utf8',
      })
      expect(status).toBe(1)
      expect(stderr).toContain('ENOSPC')
      const mute = spawnSync(process.execPath, [MAIN, 'info', 'missing.qcow2', '--json'], {
        stdio: ['ignore', 'pipe', full],
        cwd: folder,
        encoding: 'utf8',
      })
      expect([mute.status, JSON.parse(mute.stdout).error.code]).toEqual([1, 'NOT_FOUND'])
    } finally {
      fs.closeSync(full)
    }
  })
})

test('words before the verb that belong to any verb are taken; alone they say nothing', () => {
  expect(vdisk('--json', 'info', 'missing.qcow2').json().error.code).toBe('NOT_FOUND')
  expect(vdisk('--json')).toMatchObject({ code: 2, err: expect.stringContaining('no verb is given') })
  expect(vdisk('--chain', 'info', 'x')).toMatchObject({ code: 2, err: expect.stringContaining('the verb comes first') })
  expect(vdisk('help', 'info').out).toMatch(/^Usage: vdisk info/)
  expect(vdisk('version').out).toBe(vdisk('--version').out)
})

const terminal = spawnSync('script', ['--version']).status === 0
describe.skipIf(!terminal)(`on a terminal${terminal ? '' : ' (skipped: script is missing, of util-linux)'}`, () => {
  function onTerminal(words: string, env: NodeJS.ProcessEnv = {}): string {
    const command = `"${process.execPath}" "${MAIN}" ${words}`
    const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, NO_COLOR: '', TERM: 'xterm', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    return stdout
  }

  test('there is colour, unless it is not wanted', async () => {
    await make('colour.qcow2')
    expect(onTerminal('info colour.qcow2 --chain')).toContain('\u001b[1m0\u001b[')
    for (const plain of [onTerminal('info colour.qcow2 --no-color'), onTerminal('info x', { NO_COLOR: '1' })])
      expect(plain).not.toContain('\u001b[')
  })

  test('there is a bar while something is done, and it is gone afterwards', async () => {
    await make('bar.raw', { size: 64 * MiB })
    await write('bar.raw', 0, 32 * MiB, 1)
    const text = onTerminal('convert bar.raw bar.qcow2 -f raw --format qcow2')
    expect(text).toMatch(/convert|copy/)
    // The cursor is hidden for it, and shown again.
    expect(text.lastIndexOf('\u001b[?25h')).toBeGreaterThan(text.lastIndexOf('\u001b[?25l'))
    expect(onTerminal('convert bar.raw quiet.qcow2 -f raw --format qcow2 --quiet')).not.toContain('\u001b[?25l')
  })
})
