import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { arrange, type Shape, usageLine } from '../../cli/command-line.ts'
import { resembling } from '../../cli/resembling.ts'
import type { VdiskError } from '../../lib/index.ts'
import { commandLineIn, MAIN } from '../support/command-line.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('cli-usage')
const vdisk = commandLineIn(folder)

const shape: Shape = {
  verb: 'resize',
  usage: '<image> <size> [name]',
  demanded: ['format'],
  declared: {
    key: {
      image: true,
      size: true,
      format: true,
      f: true,
      force: true,
      q: true,
      quiet: true,
      depth: true,
      allow: true,
    },
    alias: { format: ['f'], quiet: ['q'] },
    boolean: ['force', 'quiet'],
    number: ['depth'],
    array: ['allow'],
    choices: { format: ['raw', 'qcow2'] },
  },
}

describe('words of a command line', () => {
  const read = (...words: string[]): string[] => arrange(words, shape)
  const fault = (...words: string[]): string => {
    try {
      return read(...words).join(' ')
    } catch (error) {
      return (error as Error).message.replace('Cannot run vdisk resize: ', '')
    }
  }

  test('come out in one form, wherever they stand', () => {
    const plain = ['--image=a', '--size=5G', '--format=raw', '--force']
    expect(read('a', '5G', '--format', 'raw', '--force')).toEqual(plain)
    expect(read('--format=raw', '--force', 'a', '5G')).toEqual(plain)
    expect(read('a', '-f', 'RAW', '5G', '--force')).toEqual(plain)
    expect(read('a', '-fraw', '5G', '--force')).toEqual(plain)
    expect(read('-qf', 'raw', 'a', '5G')).toEqual(['--image=a', '--size=5G', '--quiet', '--format=raw'])
  })

  test('may be names that begin with a dash after --, and sizes that are negative anywhere', () => {
    expect(read('-f', 'raw', '--', '--image', '-x')).toContain('--image=--image')
    expect(read('a', '-5G', '-f', 'raw')).toContain('--size=-5G')
    expect(read('a', '-.5G', '-f', 'raw')).toContain('--size=-.5G')
  })

  test('count once where they are repeated, unless they are lists', () => {
    expect(read('a', '1', '-f', 'qcow2', '--format', 'raw')).toEqual(['--image=a', '--size=1', '--format=raw'])
    expect(read('a', '1', '-f', 'raw', '--allow', 'x', '--allow', 'y')).toEqual(
      expect.arrayContaining(['--allow=x', '--allow=y']),
    )
    expect(read('a', '1', '-f', 'raw', '--force', '--no-force')).toContain('--no-force')
  })

  test.each([
    [[], 'IMAGE and SIZE are missing'],
    [['a'], 'SIZE is missing'],
    [['a', '1'], '--format is missing'],
    [['a', '1', '2', '3'], '"3" is one argument too many'],
    [['', '1'], 'IMAGE is empty'],
    [['-', '1'], 'standard input and output cannot be used, since images are read and written at any place'],
    [['--fromat', 'raw', 'a'], 'there is no option --fromat'],
    [['-x'], 'there is no option -x'],
    [['a', '--format'], '--format needs a value'],
    [['a', '--format', '--force'], '--format needs a value'],
    [['a', '--format='], '--format needs a value, and an empty one is given'],
    [['a', '-f', 'vmdk'], '-f cannot be "vmdk"'],
    [['a', '--force=perhaps'], '--force takes no value, but "perhaps" is given'],
    [['a', '--depth', '0'], '--depth is a number from 1, not "0"'],
    [['a', '--depth', 'x'], '--depth is a number from 1, not "x"'],
  ])('%j: %s', (words, why) => expect(fault(...words)).toBe(why))

  test('are given to the first place where that takes many', () => {
    const many = { ...shape, usage: '<image..> <size>', demanded: [] }
    const words = (...given: string[]): string[] => arrange(given, many)
    expect(words('a', '1')).toEqual(['--image=a', '--size=1'])
    expect(words('a', '--force', 'b', 'c', '1')).toEqual(['--image=a', '--image=b', '--image=c', '--size=1', '--force'])
    expect(words('--', '-a', '-b', '1')).toEqual(['--image=-a', '--image=-b', '--size=1'])
    expect(() => words('a')).toThrow('SIZE is missing')
    expect(() => words('a', '', '1')).toThrow('is empty')
    expect(usageLine(many)).toBe('vdisk resize IMAGE... SIZE [options]')
  })

  test('say all that is missing at once, and no more than is known of it', () => {
    const words = (more: Partial<Shape>, ...given: string[]): string => {
      try {
        return arrange(given, { ...shape, ...more }).join(' ')
      } catch (error) {
        return `${(error as Error).message} ${(error as VdiskError).advice}`
      }
    }
    expect(words({ demanded: ['format', 'depth'] }, 'a', '1')).toContain(
      '--format and --depth are missing Usage: vdisk',
    )
    // Only the name of the file that is to be made tells the format, where it is one of those.
    expect(words({}, 'a', '1', 'disk.qcow2')).toContain('it could be: --format qcow2. Usage: vdisk')
    expect(words({}, 'a', '1', 'disk.aqcow2')).toContain('it could be: --format qcow2. ')
    expect(words({}, 'a', '1', 'disk.img')).toContain('--format is missing Usage: vdisk')
    expect(words({ demanded: ['depth'] }, 'a', '1', 'disk.qcow2')).toContain('--depth is missing Usage: vdisk')
  })

  test('that take a value may have an equals sign in it, or be given with one', () => {
    expect(read('a', '1', '--format=raw', '--allow', 'x=y', '--allow=p=q')).toEqual(
      expect.arrayContaining(['--allow=x=y', '--allow=p=q']),
    )
    expect(read('a', '1', '-f=raw', '--force=false', '--quiet=true')).toEqual(
      expect.arrayContaining(['--format=raw', '--no-force', '--quiet']),
    )
    expect(fault('a', '1', '--no-force=true')).toBe('there is no option --no-force')
    expect(fault('a', '1', '--no-format')).toBe('there is no option --no-format')
    expect(fault('a', '1', '-qx')).toBe('there is no option -x')
    expect(fault('a', '1', '-xq')).toBe('there is no option -xq')
  })

  test('a complaint about an option comes before one about what is missing', () => {
    expect(fault('--frce')).toBe('there is no option --frce')
  })

  test('the usage line shows what cannot be left out', () => {
    expect(usageLine(shape)).toBe('vdisk resize IMAGE SIZE [NAME] --format FORMAT [options]')
  })
})

test('a word that is near is found, a far one is not', () => {
  const verbs = ['info', 'create', 'check', 'convert', 'compare', 'merge', 'mount', 'mounts', 'unmount']
  expect(resembling('inof', verbs)).toBe('info')
  expect(resembling('chekc', verbs)).toBe('check')
  expect(resembling('conv', verbs)).toBe('convert')
  expect(resembling('information', verbs)).toBe('info')
  expect(resembling('help', verbs)).toBeUndefined()
  expect(resembling('x', verbs)).toBeUndefined()
  expect(resembling('co', verbs)).toBeUndefined()
})

describe('wrong usage', () => {
  test.each([
    ['without an argument', ['info'], 'IMAGE is missing', 'Usage: vdisk info IMAGE [options]'],
    ['with a wrong verb', ['chekc', 'x'], 'no such verb', 'Did you mean: vdisk check?'],
    ['with a verb of nobody', ['xyzzy'], 'no such verb', 'See all verbs'],
    ['with an action that is none', ['snapshot', 'lst', 'x'], 'ACTION cannot be "lst"', 'Did you mean list?'],
    [
      'with an action of nobody',
      ['snapshot', 'xyzzy', 'x'],
      'cannot be "xyzzy"',
      'one of: create, list, revert, delete',
    ],
    ['with a verb of qemu-img', ['commit', 'x'], 'no such verb', 'Here that is: vdisk merge.'],
    ['with the options first', ['--chain', 'x'], 'the verb comes first', 'vdisk --help'],
    ['with an option of qemu-img', ['info', '--backing-chain', 'x'], 'no option', 'Here that is --chain.'],
    ['with short ones of qemu-img', ['create', '-f', 'qcow2', '-b', 'x', 'y'], 'no option -b', 'Here that is --parent'],
    ['with a size too many', ['create', 'y.qcow2', '1G', '-f', 'qcow2'], 'too many', 'Is it meant as --size 1G?'],
    ['without the format', ['create', 'y.qcow2', '--size', '1G'], '--format is missing', 'could be: --format qcow2'],
    [
      'with an option of a format without value',
      ['create', 'y', '-f', 'qcow2', '--size', '1M', '-o', 'x'],
      '-o "x"',
      'NAME=VALUE',
    ],
    ['with a name that tells no format', ['convert', 'x', 'y'], '--format', 'Give one of: '],
    ['with a name that tells a format', ['convert', 'x', 'y.avhdx'], '--format', 'could be: --format vhdx'],
    ['with an argument where there is none', ['mounts', 'x'], '"x" is one argument too many', 'vdisk mounts --help'],
    ['without a size', ['create', 'y.qcow2', '-f', 'qcow2'], 'size is not given', '--size 20G'],
    ['with no size', ['create', 'y.qcow2', '-f', 'qcow2', '--size', '1e30'], '"1e30"', 'below 2^53'],
    ['with --azure of another format', ['create', 'y', '--azure', '-f', 'qcow2', '--size', '1G'], 'exclude', 'VHD'],
    ['with --no-azure alone', ['create', 'y.vhd', '--no-azure', '--size', '1G'], '--format is missing', 'vhd'],
    ['with a format that is none', ['info', 'x', '-f', 'qcov2'], '-f cannot be "qcov2"', 'Did you mean qcow2?'],
    ['with a map that is none', ['info', 'x', '--map', 'D:'], '--map "D:"', 'PREFIX=DIR'],
    ['with a folder that is none', ['info', 'x', '--allow', 'nowhere'], '--allow "nowhere"', 'exists'],
    ['with both of two', ['convert', 'x', 'y', '-O', 'raw', '--parent', 'z', '--flatten'], 'exclude', '--parent'],
    ['with a snapshot without name', ['snapshot', 'create', 'x'], 'without a name', '--to FILE'],
    ['with --to and no layer', ['snapshot', 'revert', 'x', 'y', '--to', 'z'], 'Cannot use --to', 'revert IMAGE NAME'],
  ])('%s is told in words, and exits with 2', (_, args, why, advice) => {
    const { code, out, err } = vdisk(...args)
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).toContain(why)
    expect(err).toContain(advice)
    expect(err).not.toMatch(/non-option|Not enough|Invalid values|\n {4}at /)
    expect(vdisk(...args, '--json').json()).toMatchObject({ schemaVersion: 1, error: { code: 'REFUSED' } })
  })

  test('of check exits with 1, since 2 means damage', () => {
    expect(vdisk('check').code).toBe(1)
    expect(vdisk('check', 'x', '--fo').code).toBe(1)
    expect(vdisk('check', 'x', '-f', 'nonsense').code).toBe(1)
  })

  test('behind -- there are no options, not even those for help and version', () => {
    for (const word of ['--help', '-h', '--version']) {
      expect(vdisk('info', '--', word)).toMatchObject({
        code: 1,
        out: '',
        err: expect.stringContaining(`Cannot open ${word}`),
      })
    }
  })

  test('help and version are where people look for them', () => {
    expect(vdisk('help')).toMatchObject({ code: 0, out: expect.stringContaining('Verbs:') })
    expect(vdisk('help', 'info').out).toBe(vdisk('info', '--help').out)
    for (const word of ['version', '-V', '--version']) expect(vdisk(word).out).toMatch(/^\d+\.\d+\.\d+\n$/)
    expect(vdisk('info', '--version').out).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  test('output options may come first', () => {
    expect(vdisk('--json', 'mounts').json()).toMatchObject({ schemaVersion: 1 })
  })
})

test('odd names of files are names of files', () => {
  const names = [
    'with space',
    'line\nend',
    '--dash',
    '-d',
    'a,b',
    '\u00fcml\u00e4ut',
    'a%20b',
    '$(x)',
    "it's",
    'json:{}',
    'a:b',
  ]
  for (const name of names) {
    const made = vdisk('create', '--format', 'qcow2', '--size', '1M', '--', name)
    expect([name, made.code, made.err]).toEqual([name, 0, ''])
    expect(made.out.split('\n')).toHaveLength(2)
    expect(vdisk('info', '--json', '--', name).json().image.name).toBe(name)
  }
  // As a parent too: QEMU takes "a:b" for a protocol, but not "./a:b".
  expect(vdisk('create', 'child.qcow2', '-f', 'qcow2', '--parent', 'a:b').code).toBe(0)
  expect(vdisk('info', 'child.qcow2', '--chain').out).toContain('verified')
  // A name that no image may hold is refused before anything is made.
  expect(vdisk('create', 'child2.qcow2', '-f', 'qcow2', '--parent', 'line\nend').code).toBe(1)
  expect(fs.existsSync(path.join(folder, 'child2.qcow2'))).toBe(false)
})

// A bundle that is measured is started without launch.cjs, which says it.
const launched = process.platform !== 'win32' && process.env.VDISK_COUNT_PROGRAMS === undefined
test.skipIf(!launched)('in a folder that is not there any more it says so, and what to do', () => {
  const gone = path.join(folder, 'gone')
  const script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$1" "$2" info x'
  const { status, stdout, stderr } = spawnSync('sh', ['-c', script, gone, process.execPath, MAIN], { encoding: 'utf8' })
  expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
  expect(stderr).toBe(
    'vdisk: Cannot start: the folder that this shell is in is not there any more\n       Go to another one: cd\n',
  )
})
