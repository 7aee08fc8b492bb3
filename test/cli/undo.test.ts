import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { createDisk, createInternalSnapshot } from '../../lib/index.ts'
import { sys } from '../../lib/io/sys.ts'
import { commandLineIn, MAIN, type Ran } from '../support/command-line.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const MIB = 1 << 20

/** A folder with an image, and the tool in it. */
async function scene(
  name = 'disk.qcow2',
): Promise<{ at: (name: string) => string; vdisk: (...args: string[]) => Ran }> {
  const folder = scratchFolder()
  const at = (file: string): string => path.join(folder, file)
  {
    await using disk = await createDisk(at(name), { format: path.extname(name).slice(1), size: 4 * MIB })
    await disk.write(0, Buffer.alloc(200_000, 'old '))
    await disk.write(3 * MIB, Buffer.alloc(200_000, 'end '))
  }
  return { at, vdisk: commandLineIn(folder) }
}

describe('vdisk undo', () => {
  test('is announced by the verb, and takes it back', async () => {
    const { at, vdisk } = await scene()
    const before = fs.readFileSync(at('disk.qcow2'))
    const resized = vdisk('resize', 'disk.qcow2', '8M')
    expect(resized).toMatchObject({ code: 0, err: 'note: to undo this: vdisk undo disk.qcow2\n' })
    expect(resized.out).toBe('disk.qcow2: 4 MiB \u2192 8 MiB\n')
    expect(vdisk('undo', 'disk.qcow2')).toMatchObject({
      code: 0,
      out: 'Undone: resize to 8 MiB. disk.qcow2 is as it was before, to the byte.\n',
      err: '',
    })
    expect(fs.readFileSync(at('disk.qcow2')).equals(before)).toBe(true)
    expect(fs.existsSync(at('disk.qcow2.vdisk-undo'))).toBe(false)
    expect(vdisk('undo', 'disk.qcow2')).toMatchObject({
      code: 1,
      err: expect.stringContaining('there is no undo journal beside it'),
    })
  })

  test('shows what would come back, and changes nothing', async () => {
    const { at, vdisk } = await scene('disk.raw')
    vdisk('resize', 'disk.raw', '1M', '--shrink', '-f', 'raw')
    const journal = fs.readFileSync(at('disk.raw.vdisk-undo'))
    const shown = vdisk('undo', 'disk.raw', '--show')
    expect(shown.code).toBe(0)
    expect(shown.out).toMatch(/^verb {5}resize to 1 MiB$/m)
    expect(shown.out).toMatch(/^state {4}done$/m)
    expect(shown.out).toContain('disk.raw: 1 MiB (1048576 bytes) becomes 4 MiB (4194304 bytes) again')
    expect(shown.out).toMatch(/^ {2}at {8}1048576 {2}2 MiB of zeros$/m)
    expect(vdisk('undo', 'disk.raw', '--show', '--json').json().plan).toMatchObject({
      image: 'disk.raw',
      words: 'resize to 1 MiB',
      state: 'complete',
      files: [{ file: 'disk.raw', size: { now: MIB, before: 4 * MIB }, ranges: expect.any(Array) }],
    })
    fs.appendFileSync(at('disk.raw'), 'x')
    expect(vdisk('undo', 'disk.raw', '--show').out).toMatch(/^ {2}cannot be undone: it has 1048577 bytes/m)
    expect(fs.readFileSync(at('disk.raw.vdisk-undo')).equals(journal)).toBe(true)
  })

  test('refuses after a foreign write, and says what it was', async () => {
    const { at, vdisk } = await scene()
    vdisk('resize', 'disk.qcow2', '8M')
    const later = new Date(Date.now() + 5000)
    fs.utimesSync(at('disk.qcow2'), later, later)
    const refused = vdisk('undo', 'disk.qcow2')
    expect(refused).toMatchObject({
      code: 1,
      err: expect.stringContaining('disk.qcow2 was changed since: it was last written at'),
    })
    expect(refused.err).toContain('--force')
    expect(vdisk('undo', 'disk.qcow2', '--json').json().error).toMatchObject({ code: 'REFUSED' })
    expect(vdisk('undo', 'disk.qcow2', '--force').code).toBe(0)
  })

  test('--discard keeps the image and removes the journal; with --show it is no sense', async () => {
    const { at, vdisk } = await scene()
    vdisk('snapshot', 'create', 'disk.qcow2', 'one')
    const now = fs.readFileSync(at('disk.qcow2'))
    expect(vdisk('undo', 'disk.qcow2', '--show', '--discard').code).toBe(2)
    const discarded = vdisk('undo', 'disk.qcow2', '--discard', '--json')
    expect(discarded).toMatchObject({ code: 0 })
    expect(discarded.json().discarded).toBe(at('disk.qcow2.vdisk-undo'))
    expect(fs.readFileSync(at('disk.qcow2')).equals(now)).toBe(true)
    expect(vdisk('undo', 'disk.qcow2', '--discard').code).toBe(1)
  })
})

describe('verbs', () => {
  test('--no-undo keeps no journal, --quiet says nothing of it, --json names it', async () => {
    const { at, vdisk } = await scene()
    const journal = at('disk.qcow2.vdisk-undo')
    expect(vdisk('resize', 'disk.qcow2', '5M', '--no-undo')).toMatchObject({ code: 0, err: '' })
    expect(fs.existsSync(journal)).toBe(false)
    expect(vdisk('resize', 'disk.qcow2', '5M', '--no-undo', '--json').json().undo).toBeUndefined()
    expect(vdisk('resize', 'disk.qcow2', '6M', '--quiet')).toMatchObject({ code: 0, err: '' })
    const { undo } = vdisk('resize', 'disk.qcow2', '7M', '--json').json()
    expect(undo).toEqual({ file: journal, bytes: fs.statSync(journal).size })
    // What changes nothing can be undone no more than before.
    expect(vdisk('resize', 'disk.qcow2', '7M')).toMatchObject({ code: 0, err: '' })
    expect(vdisk('undo', 'disk.qcow2').out).toContain('resize to 7 MiB')
  })

  test('relink and all snapshot verbs can be undone', async () => {
    const { at, vdisk } = await scene()
    await createInternalSnapshot(at('disk.qcow2'), 'zero')
    expect(vdisk('create', 'leaf.qcow2', '-f', 'qcow2', '--parent', 'disk.qcow2').code).toBe(0)
    fs.copyFileSync(at('leaf.qcow2'), at('other.qcow2'))
    fs.mkdirSync(at('moved'))
    fs.copyFileSync(at('disk.qcow2'), at('moved/disk.qcow2'))
    for (const [image, args] of [
      ['leaf.qcow2', ['relink', 'leaf.qcow2', '--parent', 'moved/disk.qcow2', '--accept-modified']],
      ['leaf.qcow2', ['snapshot', 'create', 'leaf.qcow2', 'one']],
      ['other.qcow2', ['snapshot', 'revert', 'other.qcow2', 'disk.qcow2']],
    ] as const) {
      const before = fs.readFileSync(at(image))
      const ran = vdisk(...args)
      expect(ran, ran.err).toMatchObject({ code: 0, err: expect.stringContaining(`vdisk undo ${image}`) })
      const undone = vdisk('undo', image)
      expect(undone, undone.err).toMatchObject({ code: 0 })
      expect(fs.readFileSync(at(image)).equals(before), args.join(' ')).toBe(true)
    }
    fs.rmSync(at('leaf.qcow2'))
    fs.rmSync(at('other.qcow2'))
    for (const action of ['revert', 'delete']) {
      const before = fs.readFileSync(at('disk.qcow2'))
      const ran = vdisk('snapshot', action, 'disk.qcow2', 'zero', '--json')
      expect(ran.json().undo.file).toBe(at('disk.qcow2.vdisk-undo'))
      expect(vdisk('undo', 'disk.qcow2').code).toBe(0)
      expect(fs.readFileSync(at('disk.qcow2')).equals(before), action).toBe(true)
    }
  })

  test('what would need a larger journal is refused before anything is changed, with what to do', async () => {
    const { at, vdisk } = await scene('disk.raw')
    const before = fs.readFileSync(at('disk.raw'))
    const args = ['resize', 'disk.raw', '64K', '--shrink', '-f', 'raw']
    const refused = vdisk(...args, '--undo-limit', '64K')
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('it would have more than 64 KiB') })
    expect(refused.err).toContain('To go on without a way back: --no-undo. To keep more: --undo-limit SIZE')
    expect(fs.readFileSync(at('disk.raw')).equals(before)).toBe(true)
    expect(fs.existsSync(at('disk.raw.vdisk-undo'))).toBe(false)
    expect(vdisk(...args, '--undo-limit', 'much').code).toBe(2)
    expect(vdisk(...args, '--undo-limit', '1M').code).toBe(0)
  })

  test.skipIf(process.getuid?.() === 0)(
    'a folder that takes no files keeps the verb from changing anything',
    async () => {
      const { at, vdisk } = await scene()
      fs.chmodSync(at('.'), 0o555)
      try {
        expect(vdisk('resize', 'disk.qcow2', '8M')).toMatchObject({
          code: 1,
          err: expect.stringContaining('--no-undo'),
        })
      } finally {
        fs.chmodSync(at('.'), 0o755)
      }
    },
  )
})

const KILLER = pathToFileURL(path.join(import.meta.dirname, '..', 'support', 'kill-at-change.mjs')).href

/** Runs the tool, which is killed at change number `at`. @returns how many changes it made, if it got to its end */
function killedAt(at: number, ...args: string[]): number | undefined {
  const ran = spawnSync(process.execPath, ['--import', `${KILLER}?at=${at}`, MAIN, ...args], { encoding: 'utf8' })
  if (ran.signal === 'SIGKILL') return undefined
  expect(ran.status, ran.stderr).toBe(0)
  return Number(/changes (\d+)/.exec(ran.stderr)?.[1])
}

describe('after a verb that was killed', () => {
  /** An image whose verb was killed when its journal was there, and the image not yet as it should be. */
  async function killedScene(): Promise<Awaited<ReturnType<typeof scene>>> {
    for (let change = 4; ; change++) {
      const made = await scene()
      killedAt(change, 'resize', made.at('disk.qcow2'), '8M')
      if (!fs.existsSync(made.at('disk.qcow2.vdisk-undo'))) continue
      expect(made.vdisk('undo', 'disk.qcow2', '--show').out).toMatch(/^state {4}cut short$/m)
      return made
    }
  }

  test('the next one waits for a decision', async () => {
    const { vdisk } = await killedScene()
    const next = vdisk('snapshot', 'create', 'disk.qcow2', 'one')
    expect(next).toMatchObject({ code: 1, err: expect.stringContaining('"resize to 8 MiB" was cut short there') })
    expect(next.err).toContain('vdisk undo disk.qcow2 --discard')
    expect(vdisk('undo', 'disk.qcow2', '--discard').code).toBe(0)
    expect(vdisk('snapshot', 'create', 'disk.qcow2', 'one').code).toBe(0)
  })

  test('what others write later, anywhere, keeps it from being undone', async () => {
    const { at, vdisk } = await killedScene()
    const later = Date.now() / 1000 + 300
    fs.utimesSync(at('disk.qcow2'), later, later)
    const refused = vdisk('undo', 'disk.qcow2')
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('but what was cut short ended before') })
    expect(vdisk('undo', 'disk.qcow2', '--force').code).toBe(0)
    expect(vdisk('info', 'disk.qcow2', '--json').json().image.size).toBe(4 * MIB)
  })
})

describe('a verb that is killed, and an undo that is killed, are undone', () => {
  for (const name of ['disk.raw', 'disk.qcow2', 'disk.vhdx']) {
    randomTest(name, async (random: Random) => {
      const args = (image: string): string[] => [
        'resize',
        image,
        '1M',
        '--shrink',
        '--source-format',
        path.extname(image).slice(1),
      ]
      const whole = await scene(name)
      const total = killedAt(Number.POSITIVE_INFINITY, ...args(whole.at(name))) as number
      const undoing = killedAt(Number.POSITIVE_INFINITY, 'undo', whole.at(name)) as number
      expect(Math.min(total, undoing)).toBeGreaterThan(3)
      for (let i = 0; i < 5; i++) {
        const { at, vdisk } = await scene(name)
        const [bytes, { mtimeNs }] = [fs.readFileSync(at(name)), fs.statSync(at(name), { bigint: true })]
        const places = [1 + Math.floor(((i + random.fraction()) * total) / 5), 1 + random.below(undoing)] as const
        killedAt(places[0], ...args(at(name)))
        if (fs.existsSync(at(`${name}.vdisk-undo`))) {
          killedAt(places[1], 'undo', at(name))
          const again = vdisk('undo', name)
          // The undo may have got to its end before the change at which it was to be killed.
          if (again.code !== 0) expect(again.err).toContain('there is no undo journal')
        }
        const why = `killed at ${places[0]} of ${total}, then at ${places[1]} of ${undoing}`
        expect(fs.readFileSync(at(name)).equals(bytes), why).toBe(true)
        // Without native calls a time is exact to the microsecond.
        if (sys()) expect(fs.statSync(at(name), { bigint: true }).mtimeNs, why).toBe(mtimeNs)
      }
    })
  }
})
