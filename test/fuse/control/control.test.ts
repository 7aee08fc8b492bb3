import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ControlSocket } from '../../../fuse/control/control.ts'
import { ask, askHolder, flushMounted, holderOf } from '../../../fuse/control/control-client.ts'
import { Lines, LONGEST_REQUEST, parseRequest } from '../../../fuse/control/control-protocol.ts'
import { unmountAt } from '../../../fuse/daemon.ts'
import { type MapExtent, mapDisk, openDisk, VdiskError } from '../../../lib/index.ts'
import { describeIf, MIB, makeImage, mountsOf, noise, readBack, useBench } from '../../support/mount-suite.ts'
import { isRunning, must, until, whyNoMounts } from '../../support/mounts.ts'
import { refusal } from '../../support/refusal.ts'

test('lines are parted wherever they were cut, and have an end', () => {
  const lines = new Lines(8)
  expect(lines.push(Buffer.from('{"a"'))).toEqual([])
  expect(lines.push(Buffer.from(':1}\n{}\n{'))).toEqual(['{"a":1}', '{}'])
  expect(lines.push(Buffer.from('}\n\n'))).toEqual(['{}', ''])
  expect(lines.push(Buffer.from('12345678'))).toEqual([])
  expect(() => lines.push(Buffer.from('9'))).toThrow('more than 8 bytes')
})

test.each(['', 'x', '[]', 'null', '{"verb":"info"}', '{"id":1,"verb":"fly"}', '{"id":1,"verb":"info","image":3}'])(
  'the line %s is no request',
  (line) => {
    expect(() => parseRequest(line)).toThrow('Cannot understand the request')
  },
)

/** A client that writes what it likes. */
class Client {
  readonly socket: net.Socket
  text = ''
  closed = false

  constructor(file: string) {
    this.socket = net.connect(file)
    this.socket.setEncoding('utf8').on('data', (text) => {
      this.text += text
    })
    this.socket.on('close', () => {
      this.closed = true
    })
    this.socket.on('error', () => {})
  }

  get answers(): Record<string, unknown>[] {
    return this.text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  }

  async after(count: number): Promise<Record<string, unknown>[]> {
    await until(() => this.answers.length >= count)
    return this.answers
  }
}

describe.skipIf(process.platform === 'win32')('a control socket', () => {
  let folder: string
  let control: ControlSocket
  let release: () => void
  /** how often a handler was told that nobody waits for it */
  let given: number
  const clients: Client[] = []
  const connect = (): Client => {
    const client = new Client(path.join(folder, 'socket'))
    clients.push(client)
    return client
  }

  beforeEach(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-control-'))
    const file = path.join(folder, 'socket')
    // What a server that was killed leaves is no hindrance.
    fs.writeFileSync(file, '')
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    given = 0
    control = await ControlSocket.listen(
      file,
      async ({ verb, large }, tell, gone) => {
        if (verb === 'flush') {
          const count = (): number => given++
          gone.addEventListener('abort', count)
          tell({ phase: 'waiting' })
          await held
          gone.removeEventListener('abort', count)
        }
        if (verb === 'resize') throw new VdiskError('REFUSED', { message: 'Cannot do it', advice: 'Do not.' })
        return { verb, ...(large ? { filler: 'x'.repeat(8 << 20) } : {}) }
      },
      () => {},
    )
  })
  afterEach(() => {
    release()
    for (const { socket } of clients.splice(0)) socket.destroy()
    control.close()
    fs.rmSync(folder, { recursive: true, force: true })
  })

  test('answers each request with its id, errors too, in order', async () => {
    const client = connect()
    client.socket.write('{"id":1,"verb":"status"}\n{"id":"b","verb":"resize"}\n\nnothing\n{"id":3,"verb":"info"}\n')
    expect(await client.after(4)).toEqual([
      { id: 1, result: { verb: 'status' } },
      { id: 'b', error: { code: 'REFUSED', message: 'Cannot do it', advice: 'Do not.', where: {} } },
      { id: null, error: expect.objectContaining({ code: 'UNSUPPORTED' }) },
      { id: 3, result: { verb: 'info' } },
    ])
  })

  test('is for its owner alone', () => {
    expect(fs.statSync(path.join(folder, 'socket')).mode & 0o777).toBe(0o600)
  })

  test('tells how far it is, and answers others meanwhile', async () => {
    const [slow, quick] = [connect(), connect()]
    slow.socket.write('{"id":1,"verb":"flush"}\n')
    expect(await slow.after(1)).toEqual([{ id: 1, progress: { phase: 'waiting' } }])
    quick.socket.write('{"id":2,"verb":"status"}\n')
    expect(await quick.after(1)).toEqual([{ id: 2, result: { verb: 'status' } }])
    release()
    await until(() => slow.answers.some((answer) => 'result' in answer))
  })

  test('tells whoever works for a client that this is gone, and nobody whose client waits', async () => {
    const [leaving, staying] = [connect(), connect()]
    for (const client of [leaving, staying]) {
      client.socket.write('{"id":1,"verb":"flush"}\n')
      await client.after(1)
    }
    leaving.socket.destroy()
    await until(() => given > 0)
    release()
    await until(() => staying.answers.some((answer) => 'result' in answer))
    expect(given).toBe(1)
  })

  test('leaves whoever sends a line without an end', async () => {
    const client = connect()
    client.socket.write(Buffer.alloc(LONGEST_REQUEST + 1, 0x20))
    await until(() => client.closed)
    expect(client.answers).toEqual([{ id: null, error: expect.objectContaining({ code: 'LIMIT_EXCEEDED' }) }])
  })

  test('is not held up by a client that does not read', async () => {
    const [deaf, other] = [connect(), connect()]
    deaf.socket.pause()
    deaf.socket.write('{"id":1,"verb":"status","large":true}\n'.repeat(100))
    other.socket.write('{"id":2,"verb":"status"}\n')
    expect(await other.after(1)).toEqual([{ id: 2, result: { verb: 'status' } }])
  })

  test('takes so many connections and no more, and others when those are gone', async () => {
    const many = Array.from({ length: 16 }, connect)
    for (const client of many) client.socket.write('{"id":1,"verb":"status"}\n')
    for (const client of many) await client.after(1)
    const surplus = connect()
    await until(() => surplus.closed)
    expect(surplus.answers).toMatchObject([{ id: null, error: { code: 'IN_USE' } }])
    many[0]?.socket.destroy()
    const waits = async (): Promise<boolean> => {
      const next = connect()
      next.socket.write('{"id":1,"verb":"status"}\n')
      await next.after(1)
      return 'result' in (next.answers[0] as object)
    }
    await until(waits)
  })

  test('goes with its last answer', async () => {
    const [busy, idle] = [connect(), connect()]
    busy.socket.write('{"id":1,"verb":"flush"}\n')
    await busy.after(1)
    idle.socket.write('{"id":1,"verb":"status"}\n')
    await idle.after(1)
    control.close()
    await until(() => idle.closed)
    release()
    await until(() => busy.closed)
    expect(busy.answers.at(-1)).toEqual({ id: 1, result: { verb: 'flush' } })
    expect(fs.existsSync(path.join(folder, 'socket'))).toBe(false)
  })
})

const bench = useBench()

describeIf(whyNoMounts(), 'the server of a mount', () => {
  const held = (given: string): NonNullable<ReturnType<typeof holderOf>> => {
    const found = holderOf(given)
    if (!found) throw new Error(`nobody holds ${given}`)
    return found
  }

  test('is found by its image under any name, its mountpoint and what is in it', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const link = bench.place('link')
    fs.symlinkSync(image, link)
    expect(holderOf(image)).toBeUndefined()
    const mounted = await bench.mount({ image })
    for (const name of [image, link, path.relative(process.cwd(), image), mounted.mountpoint, mounted.disk]) {
      expect(holderOf(name), name).toMatchObject({ record: { pid: mounted.pid }, image: { image } })
    }
    expect(holderOf(path.dirname(image))).toBeUndefined()
    expect(holderOf(`${mounted.mountpoint} and more`)).toBeUndefined()
    await unmountAt(mounted.mountpoint)
    expect(holderOf(image)).toBeUndefined()
  })

  test('tells of the disk as it is, before anything was flushed', async () => {
    const image = await makeImage(bench, 'qcow2', 16 * MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(MIB), 0, MIB, 4 * MIB)
    const { size, extents } = await ask<{ size: number; extents: MapExtent[] }>(held(image), 'map')
    fs.closeSync(file)
    expect(size).toBe(16 * MIB)
    expect(extents.filter(({ kind }) => kind === 'data')).toMatchObject([{ offset: 4 * MIB, length: MIB, file: image }])
    const status = await ask<{ images: object[] }>(held(image), 'status')
    expect(status).toMatchObject({
      pid: mounted.pid,
      mountpoint: mounted.mountpoint,
      state: 'serving',
      images: [{ image, mode: 'read-write', disk: mounted.disk, status: { size: 16 * MIB } }],
    })
    const { layers } = await ask<{ layers: object[] }>(held(mounted.disk), 'info')
    expect(layers).toMatchObject([{ name: image, format: 'qcow2', size: 16 * MIB, depth: 0 }])
  })

  test('gives a map of many runs in pieces, the same as without it', async () => {
    const image = await makeImage(bench, 'qcow2', 64 * MIB)
    {
      await using disk = await openDisk(image, { writable: true })
      for (let at = 0; at < 64 * MIB; at += 128 << 10) await disk.write(at, noise(64 << 10))
    }
    const expected: MapExtent[] = []
    {
      await using disk = await openDisk(image)
      for await (const extent of mapDisk(disk.chain)) expected.push(extent)
    }
    await bench.mount({ image, readOnly: true })
    const runs: MapExtent[] = []
    let pieces = 0
    for (let from: number | undefined = 0; from !== undefined; pieces++) {
      const piece: { extents: MapExtent[]; next?: number } = await ask(held(image), 'map', { from, count: 100 })
      runs.push(...piece.extents)
      from = piece.next
    }
    expect(runs).toEqual(expected)
    expect(pieces).toBeGreaterThan(5)
  })

  test('resizes the disk while it is in use, by its own rules', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    const mounted = await bench.mount({ image })
    fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
    expect(await ask(held(image), 'resize', { size: 8 * MIB })).toEqual({ before: 4 * MIB, after: 8 * MIB })
    // The kernel, and whoever has the disk open, sees it.
    const file = fs.openSync(mounted.disk, 'r+')
    expect(fs.fstatSync(file).size).toBe(8 * MIB)
    expect(await ask(held(image), 'resize', { by: MIB })).toEqual({ before: 8 * MIB, after: 9 * MIB })
    expect(fs.fstatSync(file).size).toBe(9 * MIB)
    expect(fs.writeSync(file, noise(4096), 0, 4096, 9 * MIB - 4096)).toBe(4096)
    fs.closeSync(file)
    expect((await refusal(() => ask(held(image), 'resize', { size: MIB }))).advice).toContain('--shrink')
    expect((await refusal(() => ask(held(image), 'resize', { size: 'x' }))).code).toBe('UNSUPPORTED')
    expect((await refusal(() => ask(held(image), 'resize', {}))).code).toBe('UNSUPPORTED')
    await ask(held(image), 'resize', { size: 2 * MIB, shrink: true })
    expect(fs.statSync(mounted.disk).size).toBe(2 * MIB)
    await unmountAt(image)
    await using disk = await openDisk(image)
    expect(disk.size).toBe(2 * MIB)
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
  })

  test('tells the kernel of a new size, where that relies on the old one', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    const mountpoint = bench.place('disk')
    fs.writeFileSync(mountpoint, '')
    await bench.mount({ image, mountpoint })
    expect(fs.statSync(mountpoint).size).toBe(4 * MIB)
    await ask(held(image), 'resize', { size: 8 * MIB })
    expect(fs.statSync(mountpoint).size).toBe(8 * MIB)
    fs.truncateSync(mountpoint, 8 * MIB)
    const file = fs.openSync(mountpoint, 'r+')
    fs.writeSync(file, noise(4096), 0, 4096, 8 * MIB - 4096)
    fs.closeSync(file)
    expect(fs.readFileSync(mountpoint).subarray(-4096).equals(noise(4096))).toBe(true)
  })

  test('does not resize what cannot be written, or will be forgotten', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const first = await bench.mount({ image, readOnly: true })
    expect((await refusal(() => ask(held(first.mountpoint), 'resize', { size: 2 * MIB }))).code).toBe('READ_ONLY')
    const second = await bench.mount({ image, temporary: true })
    expect((await refusal(() => ask(held(second.mountpoint), 'resize', { size: 2 * MIB }))).code).toBe('REFUSED')
  })

  test('makes durable what was written, pages in memory too', async () => {
    const image = await makeImage(bench, 'raw', MIB, 'disk.raw')
    const mounted = await bench.mount({ image, format: 'raw' })
    fs.writeFileSync(mounted.disk, noise(4096), { flag: 'r+' })
    expect(await flushMounted(mounted.mountpoint)).toEqual([image])
    expect(await flushMounted(image)).toEqual([image])
    expect(await flushMounted(bench.directory())).toBeUndefined()
  })

  test('unmounts when it is asked, and answers when all is durable', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    expect((await refusal(() => ask(held(image), 'unmount'))).code).toBe('IN_USE')
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    fs.closeSync(file)
    expect(await ask(held(image), 'unmount')).toEqual({ unmounted: [image] })
    expect((await readBack(image, 0, 4096)).equals(noise(4096))).toBe(true)
    await until(() => !isRunning(mounted.pid))
    expect(mountsOf(bench)).toEqual([])
  })

  test('with several images needs to be told which', async () => {
    const images = [
      await makeImage(bench, 'qcow2', MIB, 'a.qcow2'),
      await makeImage(bench, 'qcow2', 2 * MIB, 'b.qcow2'),
    ]
    const mounted = await bench.mountAll({ images })
    expect(await ask(held(images[1] as string), 'map')).toMatchObject({ size: 2 * MIB })
    expect((await refusal(() => ask(held(mounted.mountpoint), 'map'))).code).toBe('REFUSED')
    expect(await flushMounted(mounted.mountpoint)).toEqual(images)
    expect((await refusal(() => ask(held(mounted.mountpoint), 'map', { image: '/nowhere' }))).code).toBe('NOT_FOUND')
  })

  test('that cannot listen serves all the same', async () => {
    // The address of a socket has some hundred bytes.
    vi.stubEnv('VDISK_RUNTIME_DIR', bench.directory('x'.repeat(100)))
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    fs.writeFileSync(mounted.disk, noise(4096), { flag: 'r+' })
    expect((await refusal(() => ask(held(image), 'status'))).message).toContain('it has no control socket')
    expect(await askHolder(image, 'info')).toBeUndefined()
    expect(fs.readFileSync(mounted.log as string, 'utf8')).toContain('Cannot listen on')
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
  })

  test('is not kept alive by who is connected, and does not outlive its mount', async () => {
    const mounted = await bench.mount({ image: await makeImage(bench, 'qcow2', MIB) })
    const client = new Client(held(mounted.mountpoint).record.control as string)
    client.socket.write('{"id":1,"verb":"status"}\n')
    await client.after(1)
    must('umount', mounted.mountpoint)
    await until(() => !isRunning(mounted.pid))
    await until(() => client.closed)
  })
})
