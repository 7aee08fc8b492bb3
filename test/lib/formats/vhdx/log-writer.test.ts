import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { Chain } from '../../../../lib/chain/chain.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { Edits } from '../../../../lib/formats/vhdx/edits.ts'
import { just, promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import { TableCache } from '../../../../lib/io/table-cache.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { RecordingStore } from '../../../support/stores.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'

const GUID = '11111111-2222-4333-8444-555555555555'
const SIZE = 4 * MIB

async function firstByte(file: VhdxFile, offset = 0): Promise<number> {
  const layer = await file.read()
  const byte = new Uint8Array(1)
  await promised(new Chain([layer]).read(offset, byte))
  return byte[0] as number
}

describe('the log that vdisk writes', () => {
  test('holds what was flushed, and a file that is not closed well loses nothing', async () => {
    const file = await VhdxFile.make(SIZE)
    const recorder = new RecordingStore(file.copy().store)
    file.wrap(() => recorder)
    const chain = new Chain([await file.write()])
    await promised(chain.write(MIB + 5, new Uint8Array(3000).fill(42)))
    await promised(chain.flush())
    // Of what came after the last flush, nothing is on the medium: the BAT in its place among it.
    const crashed = file.copy()
    const last = recorder.log.findLastIndex(({ kind }) => kind === 'flush')
    for (const entry of recorder.log.slice(0, last)) {
      if (entry.kind === 'write') crashed.put(entry.at, entry.bytes)
      if (entry.kind === 'truncate') crashed.store.truncate(entry.size)
    }
    expect(crashed.entry(1)).toBe(0n)
    expect(crashed.header.log).not.toBe(ZERO_GUID)
    expect(await firstByte(crashed, MIB + 5)).toBe(42)
    expect(await firstByte(crashed, MIB + 4)).toBe(0)
  })

  test('states the size of the file, in whole MiB, also of a file that was not so before', async () => {
    const file = await VhdxFile.make(SIZE - 512, { subformat: 'fixed' })
    // As QEMU leaves fixed files: cut off where the disk ends.
    const end = file.store.size()
    file.store.truncate(end - 512)
    const recorder = new RecordingStore(file.copy().store)
    const scratch = new VhdxFile()
    scratch.wrap(() => recorder)
    const layer = await scratch.write()
    await promised(layer.resize(SIZE - 1024, 0))
    const entry = recorder.log.find(({ kind, ...rest }) => kind === 'write' && (rest as { at: number }).at === MIB)
    const bytes = (entry as { bytes: Uint8Array }).bytes
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    expect([view.getBigUint64(48, true), view.getBigUint64(56, true)]).toEqual([BigInt(end), BigInt(end)])
    // What was durable when the log was written is enough to open the file.
    const crashed = file.copy()
    const last = recorder.log.findLastIndex(({ kind }) => kind === 'flush')
    for (const done of recorder.log.slice(0, last)) {
      if (done.kind === 'write') crashed.put(done.at, done.bytes)
      if (done.kind === 'truncate') crashed.store.truncate(done.size)
    }
    expect((await crashed.read()).size).toBe(SIZE - 1024)
  })

  test('is written before a header names it: a LogGuid without an entry would be a corrupt file', async () => {
    const file = await VhdxFile.make(SIZE)
    const recorder = new RecordingStore(file.store)
    file.wrap(() => recorder)
    const chain = new Chain([await file.write()])
    await promised(chain.write(0, new Uint8Array(512)))
    await promised(chain.flush())
    const logged = recorder.log.findIndex((entry) => entry.kind === 'write' && entry.at >= MIB && entry.at < 2 * MIB)
    const named = recorder.log.findIndex(
      (entry) =>
        entry.kind === 'write' && entry.at < 192 * 1024 && entry.bytes.subarray(48, 64).some((byte) => byte !== 0),
    )
    expect(logged).toBeGreaterThan(0)
    expect(named).toBeGreaterThan(logged)
    expect(recorder.log.slice(logged, named).some(({ kind }) => kind === 'flush')).toBe(true)
    await promised(chain.close())
  })

  test('keeps the last entry whole until the next one is durable', async () => {
    const file = await VhdxFile.make(SIZE)
    const chain = new Chain([await file.write()])
    const places: number[] = []
    const recorder = new RecordingStore(file.store)
    file.wrap(() => recorder)
    await promised(chain.close())
    const again = new Chain([await file.write()])
    for (let i = 0; i < 6; i++) {
      await promised(again.erase(0, MIB))
      await promised(again.write(0, new Uint8Array(MIB)))
      await promised(again.flush())
    }
    for (const entry of recorder.log) {
      if (entry.kind === 'write' && entry.at >= MIB && entry.at < 2 * MIB) places.push(entry.at - MIB)
    }
    expect(places).toEqual([0, MIB / 2, 0, MIB / 2, 0, MIB / 2])
    await promised(again.close())
  })

  test('takes a burst of changes in as many rounds as it needs, each whole', async () => {
    // 256 blocks of 1 MiB, each in another page of sector bits: more pages than one entry holds.
    const parent = {
      path: 'p.vhdx',
      absolutePath: '/p.vhdx',
      format: 'vhdx',
      identity: { kind: 'guid' as const, value: GUID, current: true },
      record: { size: 8192 * MIB, stamp: undefined, sample: undefined },
      replaces: undefined,
    }
    const file = await VhdxFile.make(8192 * MIB, { block_size: '16M' }, parent)
    const recorder = new RecordingStore(file.store)
    file.wrap(() => recorder)
    const layer = await file.write()
    for (let i = 0; i < 400; i++) {
      const room = await promised(layer.reserve(i * 16 * MIB + 512, 512))
      await promised(room.publish())
    }
    const before = recorder.log.length
    await promised(layer.flush())
    const entries = recorder.log.filter((entry) => entry.kind === 'write' && entry.at >= MIB && entry.at < 2 * MIB)
    expect(before).toBeGreaterThan(0)
    expect(entries.length).toBeGreaterThan(3)
    for (const entry of entries) expect((entry as { bytes: Uint8Array }).bytes.length).toBeLessThanOrEqual(MIB / 2)
    await promised(layer.close())
    const reopened = await file.read()
    for (const i of [0, 1, 200, 399]) {
      expect(await promised(reopened.map(i * 16 * MIB + 512, 4096))).toMatchObject({ kind: 'data', length: 512 })
      expect(await promised(reopened.map(i * 16 * MIB, 4096))).toMatchObject({ kind: 'parent', length: 512 })
    }
    expect((await checkLayer(vhdx, reopened)).findings).toEqual([])
  })
})

test('a change of more pages than the log holds is refused, and the error names the file', async () => {
  const tables = new TableCache(new MemoryStore('a', { content: new Uint8Array(MIB) }), {
    pageSize: 4096,
    capacity: MIB,
  })
  const edits = new Edits('a', tables, { capacity: 2, inFlight: 0, relieve: () => just(undefined) })
  const change = promised(edits.apply([{ at: 0, length: 3 * 4096 }], () => {}))
  await expect(change).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'a' } })
})
