import fs from 'node:fs'
import { afterEach, describe, expect, test } from 'vitest'
import { Channel } from '../../../fuse/doors/channel.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { Session } from '../../../fuse/protocol/session.ts'
import { Tree } from '../../../fuse/tree/tree.ts'
import { type Sys, sys } from '../../../lib/io/sys.ts'
import { requestBytes, transfer, writeBody } from '../../support/fuse-messages.ts'
import { MemoryDevice } from '../../support/memory-device.ts'

const DISK = 1
const native = sys()

/** The other end of a channel, where the kernel would be: a socket takes the place of the device. */
function makeChannel() {
  const [near, far] = (native as Sys).socketPair()
  const device = new MemoryDevice(1 << 20)
  const session = new Session(Tree.ofFile(device), { owner: { uid: 0, gid: 0, shared: false }, log: () => {} })
  const channel = new Channel(near, session, (message) => problems.push(message))
  const problems: string[] = []
  const served = channel.serve()
  const close = async (): Promise<void> => {
    channel.stop()
    await served
    fs.closeSync(near)
    fs.closeSync(far)
  }
  const send = (message: Uint8Array): void => void fs.writeSync(far, message)
  /** The next reply, as the number of its request and its payload. */
  const receive = (): Promise<[number, Buffer]> =>
    new Promise((resolve, reject) => {
      const buffer = Buffer.alloc(1 << 17)
      fs.read(far, buffer, 0, buffer.length, null, (error, count) => {
        if (error) reject(error)
        else resolve([buffer.readUInt32LE(8), buffer.subarray(16, count)])
      })
    })
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise((resolve) => setImmediate(resolve))
  }
  return { device, channel, served, send, receive, until, close, problems }
}

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

describe.skipIf(!native)('the channel', () => {
  test('wakes for each request, however long it slept', async () => {
    const { send, receive, device, close } = makeChannel()
    closers.push(close)
    device.bytes.fill(9)
    for (let unique = 1; unique <= 50; unique++) {
      send(requestBytes(OPCODE.READ, DISK, transfer(0, 4), unique))
      expect(await receive()).toEqual([unique, Buffer.from([9, 9, 9, 9])])
    }
  })

  test('receives while earlier requests wait, and uses no buffer again before its request is done', async () => {
    const { send, receive, until, device, close } = makeChannel()
    closers.push(close)
    const release: (() => void)[] = []
    device.before = () => new Promise<void>((resolve) => release.push(resolve))
    for (let index = 0; index < 10; index++) {
      send(requestBytes(OPCODE.WRITE, DISK, writeBody(index * 4096, new Uint8Array(4096).fill(index + 1)), index + 1))
      await until(() => release.length === index + 1)
    }
    // All ten wait, each with a view of the buffer it came in.
    expect(device.buffers.map((buffer) => buffer.every((byte) => byte === buffer[0]) && buffer[0])).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
    ])
    for (const index of [3, 0, 9, 1, 2, 4, 5, 6, 7, 8]) {
      release[index]?.()
      expect((await receive())[0]).toBe(index + 1)
    }
    for (let index = 0; index < 10; index++) expect(device.bytes[index * 4096 + 4095]).toBe(index + 1)
  })

  test('leaves in the kernel what it could not hold', async () => {
    const { send, receive, until, device, close } = makeChannel()
    closers.push(close)
    const release: (() => void)[] = []
    device.before = () => new Promise<void>((resolve) => release.push(resolve))
    for (let index = 0; index < 64; index++) {
      send(requestBytes(OPCODE.READ, DISK, transfer(0, 1), index + 1))
      await until(() => release.length === index + 1)
    }
    send(requestBytes(OPCODE.READ, DISK, transfer(0, 1), 65))
    for (let turns = 0; turns < 100; turns++) await new Promise((resolve) => setImmediate(resolve))
    expect(release.length).toBe(64)
    release[10]?.()
    expect((await receive())[0]).toBe(11)
    await until(() => release.length === 65)
    device.before = () => undefined
    for (const go of release) go()
  })

  test('told to stop, it answers what it has and receives no more', async () => {
    const { send, receive, until, device, channel, served, close } = makeChannel()
    closers.push(close)
    let release = (): void => {}
    device.before = () =>
      new Promise<void>((resolve) => {
        release = resolve
      })
    send(requestBytes(OPCODE.READ, DISK, transfer(0, 1), 5))
    await until(() => device.calls.length === 1)
    channel.stop()
    send(requestBytes(OPCODE.READ, DISK, transfer(0, 1), 6))
    release()
    await served
    expect((await receive())[0]).toBe(5)
    expect(device.calls.length).toBe(1)
  })
})
