import { expect, test } from 'vitest'
import { BandFiles } from '../../../lib/formats/sparsebundle/band-files.ts'
import { breathe, type Io, promised, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { packableDisk } from '../../support/packed-disks.ts'
import { Random } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'

const BAND = 8192

test('of files that open slowly each is opened once, and none is closed while it is read', async () => {
  const bands = 40
  const disk = packableDisk(new Random(12), bands * BAND)
  const opened = new Set<string>()
  const folder = new MemoryFolder()
  const neighbour = function* (reference: string): Io<ByteStore> {
    expect(opened.has(reference)).toBe(false)
    opened.add(reference)
    yield* breathe()
    const band = Number.parseInt(reference.slice('bands/'.length), 16)
    const file = new MemoryStore(reference, { content: disk.subarray(band * BAND, (band + 1) * BAND) })
    const close = (): void => void opened.delete(reference)
    const read = async (at: number, target: Uint8Array): Promise<void> => {
      // The first is read for longer than it takes to open all others.
      for (let turns = band === 0 ? 2 * bands : 1; turns > 0; turns--) await promised(breathe())
      expect(opened.has(reference)).toBe(true)
      file.read(at, target)
    }
    return { ...watchedStore(file, () => {}), read, close }
  }
  const files = new BandFiles({ ...folder.image('a'), neighbour }, BAND, disk.length)
  const target = new Uint8Array(disk.length)
  const parts = Array.from({ length: 2 * bands }, (_, half) =>
    target.subarray((half * BAND) / 2, ((half + 1) * BAND) / 2),
  )
  await Promise.all(parts.map((part, half) => promised(settle(files.read((half * BAND) / 2, part)))))
  expect(Buffer.compare(target, disk)).toBe(0)
  await promised(settle(files.close()))
  expect(opened.size).toBe(0)
})

test('its disk ends where it says, cannot be written, and is zeros where there is no file', async () => {
  const folder = new MemoryFolder()
  const files = new BandFiles(folder.image('a'), BAND, 2 * BAND)
  const target = new Uint8Array(BAND).fill(1)
  await promised(settle(files.read(BAND, target)))
  expect(target.every((byte) => byte === 0)).toBe(true)
  expect((await refusal(() => promised(settle(files.read(BAND + 1, target))))).code).toBe('OUT_OF_RANGE')
  for (const change of [() => files.write(), () => files.truncate(), () => files.grow()]) {
    expect(await refusal(async () => change())).toMatchObject({ code: 'READ_ONLY', where: { file: 'a' } })
  }
})
