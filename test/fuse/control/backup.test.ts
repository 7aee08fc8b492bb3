import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { type AskOptions, ask, holderOf } from '../../../fuse/control/control-client.ts'
import { type Mounted, unmountAt } from '../../../fuse/daemon.ts'
import { type BackedUp, enableTracking, openDisk } from '../../../lib/index.ts'
import { describeIf, MIB, makeImage, useBench } from '../../support/mount-suite.ts'
import { isRunning, must, until, whyNoMounts } from '../../support/mounts.ts'
import { refusal } from '../../support/refusal.ts'

const bench = useBench()

const WRITER = path.join(import.meta.dirname, '..', '..', 'support', 'numbered-writer.mjs')
const SIZE = 24 * MIB
const SLOT = 65536
/** Two writers have so many places each, in turn; between them lies what nobody changes. */
const COUNT = 100
const AREAS = [0, 17 * MIB] as const
const STILL = { from: 8 * MIB, to: 16 * MIB } as const

/** The highest number in a writer's area. Everything up to it is there, and nothing else, or the test fails. */
function lastIn(content: Uint8Array, first: number): number {
  const numbers = Array.from({ length: COUNT }, (_, place) => {
    const at = first + place * SLOT
    const block = new Float64Array(content.slice(at, at + 4096).buffer)
    expect(new Set(block).size, `the block at ${at} is of two moments`).toBe(1)
    return block[0] as number
  })
  const last = Math.max(...numbers)
  // Number n went to place n % COUNT, and 1 was the first.
  const wanted = numbers.map((_, place) => Math.max(0, last - ((((last - place) % COUNT) + COUNT) % COUNT)))
  expect(numbers).toEqual(wanted)
  return last
}

function lastsIn(content: Uint8Array): number[] {
  for (let at = STILL.from; at < STILL.to; at += MIB) {
    expect(Buffer.compare(content.subarray(at, at + MIB), Buffer.alloc(MIB, at / MIB))).toBe(0)
  }
  return AREAS.map((first) => lastIn(content, first))
}

async function contentOf(file: string): Promise<Uint8Array> {
  await using disk = await openDisk(file)
  const content = new Uint8Array(disk.size)
  await disk.read(0, content)
  return content
}

describeIf(whyNoMounts(), 'a backup of a disk that is mounted', () => {
  /** A tracked image, and a folder for its backups. */
  async function prepare() {
    const image = await makeImage(bench, 'qcow2', SIZE)
    {
      await using disk = await openDisk(image, { writable: true })
      for (let at = STILL.from; at < STILL.to; at += MIB) await disk.write(at, new Uint8Array(MIB).fill(at / MIB))
    }
    await enableTracking(image)
    const folder = bench.place('backups')
    const backUp = async (argument: object = {}, options: AskOptions = {}): Promise<BackedUp> => {
      const held = holderOf(image) ?? expect.fail('nobody has it mounted')
      return await ask<BackedUp>(held, 'backup', { folder, ...argument }, options)
    }
    return { image, folder, backUp }
  }

  /** Two who write to a mounted disk until they are ended, from number 1 on. */
  async function writeTo({ disk }: { disk: string }): Promise<() => Promise<void>> {
    const file = fs.openSync(disk, 'r+')
    for (const first of AREAS) fs.writeSync(file, Buffer.alloc(COUNT * SLOT), 0, COUNT * SLOT, first)
    fs.closeSync(file)
    const writers = AREAS.map((first) => spawn(process.execPath, [WRITER, disk, `${first}`, `${COUNT}`, `${SLOT}`]))
    const ends = writers.map((writer) => once(writer, 'exit'))
    const end = async (): Promise<void> => {
      for (const writer of writers) writer.kill('SIGKILL')
      await Promise.all(ends)
    }
    bench.onClean(end)
    await Promise.all(writers.map((writer) => once(writer.stdout, 'data')))
    return end
  }

  /** Granules that changed since a token. */
  async function changesSince(image: string, token: string | undefined): Promise<number[]> {
    const held = holderOf(image) ?? expect.fail('nobody has it mounted')
    interface Told {
      full?: string
      extents: { offset: number; length: number }[]
    }
    const { full, extents } = await ask<Told>(held, 'track', { action: 'changes', since: token })
    expect(full).toBeUndefined()
    return extents.flatMap(({ offset, length }) => Array.from({ length: length / SLOT }, (_, i) => offset / SLOT + i))
  }

  async function killServer({ pid, mountpoint }: Mounted): Promise<void> {
    process.kill(pid, 'SIGKILL')
    await until(() => !isRunning(pid))
    must('umount', '-l', mountpoint)
  }

  test('is of one moment while others write, and its token tells what came later', async () => {
    const { image, folder, backUp } = await prepare()
    const mounted = await bench.mount({ image })
    const end = await writeTo(mounted)
    const phases = new Set<string>()
    const spill = bench.directory('spill')
    const onProgress = (progress: object): void => void phases.add((progress as { phase: string }).phase)
    const full = await backUp({ memory: SLOT, spill }, { onProgress })
    expect(full).toMatchObject({ kind: 'full', number: 1, folder, verified: true })
    expect([...phases]).toContain('backup')
    expect(fs.readdirSync(spill)).toEqual([])
    const first = lastsIn(await contentOf(full.file))
    const second = await backUp({ consumer: 'nightly' })
    expect(second).toMatchObject({ kind: 'incremental', number: 2 })
    expect(second.full).toBeUndefined()
    // Of what nobody changes nothing was read again.
    expect(second.read).toBeLessThan(SIZE - (STILL.to - STILL.from))
    const later = lastsIn(await contentOf(second.file))
    await end()
    const now = lastsIn(new Uint8Array(fs.readFileSync(mounted.disk)))
    for (const i of [0, 1] as const) {
      expect(later[i] as number).toBeGreaterThan(first[i] as number)
      expect(now[i] as number).toBeGreaterThanOrEqual(later[i] as number)
    }
    const changed = new Set(await changesSince(image, second.token))
    for (const [i, area] of AREAS.entries()) {
      for (let number = (later[i] as number) + 1; number <= (now[i] as number); number++) {
        expect(changed).toContain(area / SLOT + (number % COUNT))
      }
    }
    for (let at = STILL.from; at < STILL.to; at += SLOT) expect(changed).not.toContain(at / SLOT)
    // And of a disk that is left alone just what is written then.
    const third = await backUp()
    const disk = fs.openSync(mounted.disk, 'r+')
    for (const granule of [7, 8, 200]) fs.writeSync(disk, Buffer.alloc(10, 9), 0, 10, granule * SLOT + 50)
    fs.closeSync(disk)
    expect(await changesSince(image, third.token)).toEqual([7, 8, 200])
  })

  test('whose server is killed begins again from the same token', async () => {
    const { image, backUp } = await prepare()
    const before = await bench.mount({ image })
    const full = await backUp()
    await writeTo(before)
    const backingUp = refusal(() =>
      backUp({ rate: MIB }, { onProgress: () => void process.kill(before.pid, 'SIGKILL') }),
    )
    expect((await backingUp).code).toBe('IO')
    await killServer(before).catch(() => {})
    const mounted = await bench.mount({ image })
    const end = await writeTo(mounted)
    const second = await backUp()
    expect(second).toMatchObject({ kind: 'incremental', number: 2 })
    expect(second.full).toBeUndefined()
    lastsIn(await contentOf(second.file))
    lastsIn(await contentOf(full.file))
    await end()
  })

  test.each(['by its client', 'with its mount'])(
    'that is given up %s leaves the disk as it is, and can be made again',
    async (how) => {
      const { image, backUp } = await prepare()
      const mounted = await bench.mount({ image })
      const leaving = new AbortController()
      let ending: Promise<unknown> | undefined
      const onProgress = (): void => {
        if (how === 'by its client') leaving.abort()
        else ending ??= unmountAt(image)
      }
      const given = await refusal(() => backUp({ rate: MIB }, { onProgress, signal: leaving.signal }))
      expect(given.code).toBe('CANCELLED')
      await ending
      if (how === 'with its mount') await bench.mount({ image })
      else fs.writeFileSync(mounted.disk, Buffer.alloc(MIB, 1), { flag: 'r+' })
      // At once, though the server may still be on its way out of the first.
      expect(await backUp()).toMatchObject({ kind: 'full', number: 1 })
    },
  )

  test('with the policy to drop is given up where there is no room, and the writers notice nothing', async () => {
    const { image, backUp } = await prepare()
    const mounted = await bench.mount({ image })
    await writeTo(mounted)
    const error = await refusal(() => backUp({ policy: 'drop', memory: SLOT, rate: 4 * MIB }))
    expect(error).toMatchObject({ code: 'MOMENT_LOST' })
    for (const argument of [{ policy: 'x' }, { folder: undefined }, { into: '/x' }, { keep: 'x' }, { options: 1 }]) {
      expect((await refusal(() => backUp(argument))).code).toBe('UNSUPPORTED')
    }
  })
})
