import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { createDisk } from '../../lib/index.ts'
import { corpusEntries, corpusMissing, restored } from '../support/corpus.ts'
import { whyNoFilesystems } from '../support/filesystems.ts'
import { noise, useBench } from '../support/mount-suite.ts'

const missing = corpusMissing ?? whyNoFilesystems()

/** Images of other makers, what lies in them, and whether a child takes what is written. */
const CASES = [
  { id: 'vhdx/discutils-btrfs', type: 'btrfs', partition: 1, child: undefined },
  { id: 'vhdx/discutils-btrfs', type: 'btrfs', partition: 1, child: 'avhdx' },
  { id: 'qcow2/dfvfs-ext2', type: 'ext2', partition: undefined, child: undefined },
  { id: 'qcow2/dfvfs-ext2', type: 'ext2', partition: undefined, child: 'qcow2' },
  { id: 'raw/etcher-img', type: 'vfat', partition: 1, child: undefined },
] as const

/** Names and content of all files. */
function filesIn(folder: string): Record<string, string> {
  const names = fs.readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()
  const files = names.filter((name) => fs.statSync(path.join(folder, name)).isFile())
  return Object.fromEntries(files.map((name) => [name, fs.readFileSync(path.join(folder, name), 'base64')]))
}

describe.skipIf(missing)(`a real image${missing ? ` (skipped: ${missing})` : ''}`, () => {
  const bench = useBench()

  test.each(CASES)(
    '$id with its $type, child: $child, shows its files, takes more, and has them afterwards',
    async (one) => {
      const entry = corpusEntries.find(({ id }) => id === one.id)
      if (!entry) throw new Error(`the corpus has no ${one.id}`)
      const original = restored(entry, bench.directory('images'))
      let image = original
      if (one.child) {
        image = path.join(path.dirname(original), `child.${one.child}`)
        const format = one.child === 'avhdx' ? 'vhdx' : one.child
        await (await createDisk(image, { format, parent: original, parentFormat: entry.format })).close()
      }
      const before = fs.readFileSync(original)
      const options = { images: [image], ...(one.child ? {} : { format: entry.format }) }
      const first = await bench.mountFilesystem(options, one.partition ?? 'sensible')
      expect(first.filesystem).toMatchObject({ type: one.type, partition: one.partition })
      const found = filesIn(first.mountpoint)
      fs.writeFileSync(path.join(first.mountpoint, 'written.bin'), noise(100_000))
      await unmountAt(first.mountpoint)
      const again = await bench.mountFilesystem(options, one.partition ?? 'sensible')
      expect(filesIn(again.mountpoint)).toEqual({ ...found, 'written.bin': noise(100_000).toString('base64') })
      await unmountAt(again.mountpoint)
      if (one.child) expect(fs.readFileSync(original).equals(before)).toBe(true)
    },
  )
})
