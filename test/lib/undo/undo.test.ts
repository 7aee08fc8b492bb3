import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  createDisk,
  createInternalSnapshot,
  discardUndo,
  inspectChain,
  isVdiskError,
  type KeptJournal,
  openDisk,
  planUndo,
  resizeDisk,
  undoImage,
  type VdiskError,
} from '../../../lib/index.ts'
import { sys } from '../../../lib/io/sys.ts'
import { describeWithPeers, runPeer } from '../../support/peers.ts'
import { scratchFolder } from '../../support/temp.ts'
import { UNDO_SCENES } from '../../support/undo-scenes.ts'

const MIB = 1 << 20

/** All files of a folder: bytes, and time of the last change. */
function stateOf(folder: string): Record<string, { bytes: string; modified: bigint }> {
  return Object.fromEntries(
    fs.readdirSync(folder).map((name) => {
      const file = path.join(folder, name)
      const bytes = fs.readFileSync(file).toString('latin1')
      return [name, { bytes, modified: fs.statSync(file, { bigint: true }).mtimeNs }]
    }),
  )
}

async function refusal(work: Promise<unknown>): Promise<VdiskError> {
  try {
    await work
  } catch (error) {
    if (isVdiskError(error)) return error
    throw error
  }
  throw new Error('it was not refused')
}

/** A qcow2 image that was made larger, and can be undone. */
async function resized(name = 'image.qcow2'): Promise<string> {
  const image = path.join(scratchFolder(), name)
  const format = path.extname(name).slice(1)
  await using disk = await createDisk(image, { format, size: 4 * MIB })
  await disk.write(0, Buffer.alloc(100_000, 'old '))
  await disk.close()
  await resizeDisk(image, 8 * MIB, { format, undo: true })
  return image
}

describe('undone', () => {
  test.each(UNDO_SCENES)('$title: every byte, every size and every time is as before', async (scene) => {
    const folder = scratchFolder()
    const image = await scene.make(folder, {})
    const before = stateOf(folder)
    const kept: KeptJournal[] = []
    await scene.run(image, { undo: { onKept: (journal) => kept.push(journal) } })
    expect(kept).toEqual([{ file: `${image}.vdisk-undo`, bytes: fs.statSync(`${image}.vdisk-undo`).size }])
    expect(stateOf(folder)[path.basename(image)]).not.toEqual(before[path.basename(image)])
    const plan = await undoImage(image)
    expect(plan).toMatchObject({ state: 'complete', image })
    const after = stateOf(folder)
    for (const name of Object.keys(before)) {
      expect(after[name]?.bytes === before[name]?.bytes, `bytes of ${name}`).toBe(true)
      // Without native calls a time is exact to the microsecond.
      if (sys()) expect(after[name]?.modified, `time of ${name}`).toBe(before[name]?.modified)
    }
    expect(Object.keys(after)).toEqual(Object.keys(before))
  })

  test('a raw parent is known to its child again', async () => {
    const folder = scratchFolder()
    const at = (name: string): string => path.join(folder, name)
    await (await createDisk(at('base.raw'), { format: 'raw', size: 4 * MIB })).close()
    // Some time that is no whole second, and long ago.
    fs.utimesSync(at('base.raw'), 1_600_000_000.123, 1_600_000_000.123)
    const child = await createDisk(at('child.qcow2'), { format: 'qcow2', parent: at('base.raw'), parentFormat: 'raw' })
    await child.close()
    await resizeDisk(at('base.raw'), MIB, { format: 'raw', shrink: true, force: true, undo: true })
    expect((await inspectChain(at('child.qcow2'))).at(-1)?.link?.level).toBe('mismatch')
    await undoImage(at('base.raw'))
    if (sys()) {
      expect((await inspectChain(at('child.qcow2'))).at(-1)?.link).toMatchObject({
        level: 'consistent',
        reason: undefined,
      })
    }
  })

  test('holes are holes again', async () => {
    const image = path.join(scratchFolder(), 'sparse.raw')
    {
      await using disk = await createDisk(image, { format: 'raw', size: 1024 * MIB })
      await disk.write(900 * MIB, Buffer.alloc(MIB, 1))
    }
    await resizeDisk(image, MIB, { format: 'raw', shrink: true, undo: true })
    expect(fs.statSync(`${image}.vdisk-undo`).size).toBeLessThan(2 * MIB)
    await undoImage(image)
    expect(fs.statSync(image).size).toBe(1024 * MIB)
    if (sys()) expect(fs.statSync(image).blocks * 512).toBeLessThan(4 * MIB)
  })

  test('a copy that keeps times is undone like the original, wherever it lies', async () => {
    const image = await resized()
    const elsewhere = scratchFolder()
    for (const ending of ['', '.vdisk-undo']) {
      spawnSync('cp', ['-p', image + ending, path.join(elsewhere, `copy${ending}`)])
    }
    await undoImage(path.join(elsewhere, 'copy'))
    expect((await planUndo(image)).files[0]?.objection).toBeUndefined()
  })

  test('only the last verb can be undone: the one before is given up when the next one changes something', async () => {
    const image = await resized()
    const between = fs.readFileSync(image)
    await createInternalSnapshot(image, 'one', { undo: true })
    expect((await undoImage(image)).words).toBe('snapshot create "one"')
    expect(fs.readFileSync(image).equals(between)).toBe(true)
    expect((await refusal(undoImage(image))).code).toBe('NOT_FOUND')
  })

  test('a verb that is refused leaves no journal, and keeps the one that was there', async () => {
    const image = await resized()
    const journal = fs.readFileSync(`${image}.vdisk-undo`)
    expect((await refusal(resizeDisk(image, MIB, { undo: true }))).code).toBe('REFUSED')
    expect((await refusal(createInternalSnapshot(image, '', { undo: true }))).code).toBeDefined()
    expect(fs.readFileSync(`${image}.vdisk-undo`).equals(journal)).toBe(true)
    await undoImage(image)
  })

  test('discarded, the image stays and the journal is gone', async () => {
    const image = await resized()
    const now = fs.readFileSync(image)
    expect(discardUndo(image)).toEqual({ journal: `${image}.vdisk-undo` })
    expect(fs.readFileSync(image).equals(now)).toBe(true)
    expect((await refusal(undoImage(image))).code).toBe('NOT_FOUND')
    expect((await refusal(Promise.resolve().then(() => discardUndo(image)))).code).toBe('NOT_FOUND')
  })

  test('whoever may not read the image may not read its journal', async () => {
    const image = path.join(scratchFolder(), 'secret.raw')
    fs.writeFileSync(image, Buffer.alloc(MIB, 1), { mode: 0o600 })
    await resizeDisk(image, 512, { format: 'raw', shrink: true, undo: true })
    expect(fs.statSync(`${image}.vdisk-undo`).mode & 0o777).toBe(0o600)
  })

  test('by a link the journal lies beside the image, not beside the link', async () => {
    const image = await resized()
    discardUndo(image)
    const link = path.join(scratchFolder(), 'link.qcow2')
    fs.symlinkSync(image, link)
    await resizeDisk(link, 10 * MIB, { undo: true })
    expect(fs.existsSync(`${image}.vdisk-undo`)).toBe(true)
    await undoImage(link)
    await using disk = await openDisk(image)
    expect(disk.size).toBe(8 * MIB)
  })
})

describe('nothing is undone once something else has written', () => {
  const foreign: readonly (readonly [string, (image: string) => unknown, RegExp])[] = [
    ['vdisk', writeByUs, /was written/],
    ['dd, to what the verb wrote', (image) => overwrite(image, 8), /it was written to at 0$/],
    ['dd, elsewhere', (image) => overwrite(image, fs.statSync(image).size - 3), /last written at/],
    ['who makes it longer', (image) => fs.appendFileSync(image, 'x'), /bytes, and was left with/],
    ['who cuts it short', (image) => fs.truncateSync(image, 1000), /it has 1000 bytes, and was left with/],
    [
      'a verb without a journal',
      (image) => resizeDisk(image, 9 * MIB, { format: formatOf(image) }),
      /was changed since/,
    ],
  ]

  for (const name of ['image.qcow2', 'image.vhdx', 'image.raw']) {
    test.each(foreign)(`${name}: by %s`, async (_who, write, why) => {
      const image = await resized(name)
      await write(image)
      const now = fs.readFileSync(image)
      const error = await refusal(undoImage(image))
      expect(error.code).toBe('REFUSED')
      expect(error.message).toContain(`Cannot undo "resize to 8 MiB" on ${image}`)
      if (name === 'image.qcow2') expect(error.message).toMatch(why)
      expect(fs.readFileSync(image).equals(now)).toBe(true)
      expect((await planUndo(image)).files[0]?.objection?.message).toBe(error.message.split('changed since: ')[1])
    })
  }

  test('by force where only the time is another, and nowhere else', async () => {
    const touched = await resized()
    fs.utimesSync(touched, 1_700_000_000, 1_700_000_000)
    expect((await refusal(undoImage(touched))).advice).toContain('--force')
    await undoImage(touched, { force: true })
    await using disk = await openDisk(touched)
    expect(disk.size).toBe(4 * MIB)
    const written = await resized()
    overwrite(written, 8)
    expect((await refusal(undoImage(written, { force: true }))).code).toBe('REFUSED')
  })

  test('a copy of another image in its place is another image', async () => {
    const image = await resized()
    const other = await resized()
    overwrite(other, 300)
    fs.copyFileSync(`${other}.vdisk-undo`, `${image}.vdisk-undo`)
    expect((await refusal(undoImage(image, { force: true }))).message).toMatch(/written to at|was left with/)
  })

  test.runIf(sys())('an image in use is not undone', async () => {
    const image = await resized()
    await using _used = await openDisk(image, { writable: true })
    expect((await refusal(undoImage(image))).code).toBe('IN_USE')
    expect((await refusal(Promise.resolve().then(() => discardUndo(image)))).code).toBe('IN_USE')
  })

  function formatOf(image: string): string {
    return path.extname(image).slice(1)
  }

  async function writeByUs(image: string): Promise<void> {
    await using disk = await openDisk(image, { writable: true, format: formatOf(image) })
    await disk.write(50, Buffer.from('new'))
  }

  function overwrite(image: string, at: number): void {
    const file = fs.openSync(image, 'r+')
    fs.writeSync(file, Buffer.from('dd!'), 0, 3, at)
    fs.closeSync(file)
  }
})

describeWithPeers(['qemu-io', 'qemu-img'], 'after QEMU', () => {
  test.each(['write 0 4k', 'write 3M 4k', 'discard 0 64k', 'write -z 7M 64k'])(
    '%s nothing is undone',
    async (command) => {
      const image = await resized()
      runPeer('qemu-io', ['-f', 'qcow2', '-c', command, image])
      expect((await refusal(undoImage(image))).code).toBe('REFUSED')
    },
  )

  test('what is brought back is what QEMU reads', async () => {
    const image = await resized()
    await undoImage(image)
    expect(runPeer('qemu-img', ['check', '-f', 'qcow2', image]).stdout).toContain('No errors')
    expect(JSON.parse(runPeer('qemu-img', ['info', '--output=json', image]).stdout)['virtual-size']).toBe(4 * MIB)
  })
})
