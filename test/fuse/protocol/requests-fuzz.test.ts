import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Frame } from '../../../fuse/protocol/frame.ts'
import { OPCODE, REQUEST_HEADER, REQUEST_ROOM } from '../../../fuse/protocol/protocol.ts'
import { just, runSync } from '../../../lib/index.ts'
import { frameOf, requestBytes } from '../../support/fuse-messages.ts'
import { makeSession } from '../../support/fuse-session.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'

const ROUNDS = 20_000

/** Those that have no reply, by design. */
const SILENT = new Set<number>([OPCODE.FORGET, OPCODE.BATCH_FORGET, OPCODE.INTERRUPT])

/** Numbers at which something changes: sizes, places, ids and flags are made of them. */
const EDGES = [0, 1, 2, 3, 4, 5, 7, 8, 16, 255, 512, 4095, 4096, 4097, 65535, 65536, 1 << 20, (1 << 20) + 1, 2 ** 31]
const HUGE = [2n ** 32n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n]

/** A session with a node of each kind. */
function makeAll() {
  const made = makeSession({ size: 65536 })
  made.tree.addText('status.json', () => just('{}'))
  made.tree.addFolder('partitions')
  made.tree.addFile('window', made.device, undefined, { content: made.file.content, start: 4096 })
  return made
}

/** A body of fields at which handlers look, each of them near an edge. */
function makeBody(random: Random): Uint8Array {
  const body = Buffer.alloc(random.pick([0, 1, 4, 8, 12, 16, 24, 32, 40, 56, 64, 88, 104, 200, 4096]))
  for (let at = 0; at + 8 <= body.length && at < 104; at += 8) {
    if (random.chance(0.1)) body.writeBigUInt64LE(random.pick(HUGE), at)
    else {
      body.writeUInt32LE(random.pick(EDGES) >>> 0, at)
      body.writeUInt32LE(random.chance(0.7) ? 0 : random.pick(EDGES) >>> 0, at + 4)
    }
  }
  if (random.chance(0.1)) body.set(random.bytes(Math.min(body.length, 64)))
  return body
}

function makeRequest(random: Random, unique: number): Uint8Array {
  const opcode = random.chance(0.9) ? random.pick(Object.values(OPCODE)) : random.below(2 ** 32)
  const node = random.chance(0.9) ? random.below(8) : random.pick(EDGES)
  const message = requestBytes(opcode, node, makeBody(random), unique)
  // Cut short, anywhere behind the header.
  return random.chance(0.2) ? message.subarray(0, REQUEST_HEADER + random.below(message.length - 39)) : message
}

printSeed()

describe('requests of all kinds, right and wrong', () => {
  // Answers hold times; here two sessions are compared.
  beforeEach(() => vi.useFakeTimers({ now: 1_700_000_000_000, toFake: ['Date'] }))
  afterEach(() => vi.useRealTimers())

  randomTest('are answered once, with their number, and by nothing but what is in them', (random) => {
    const sessions = [makeAll(), makeAll()]
    const request = new Frame(REQUEST_ROOM)
    for (let round = 1; round <= ROUNDS; round++) {
      const message = makeRequest(random, round)
      // What lies behind the request in its buffer is of an earlier one, and none of its business.
      const replies = sessions.map(({ session }, index) => {
        request.bytes.set(message)
        request.bytes.fill(index === 0 ? 0 : 0xa5, message.length, message.length + 512)
        request.length = message.length
        const reply = runSync(session.handle(request)) as Frame | undefined
        const bytes = reply && Buffer.from(reply.bytes.subarray(0, reply.length))
        if (reply) session.recycle(reply)
        return bytes
      })
      const [reply, other] = replies
      const what = `round ${round}: ${Buffer.from(message.subarray(0, 120)).toString('hex')}`
      if (SILENT.has(Buffer.from(message).readUInt32LE(4))) {
        expect(replies, what).toEqual([undefined, undefined])
        continue
      }
      if (!reply || !other) throw new Error(`No answer in ${what}`)
      if (reply.readUInt32LE(0) !== reply.length) throw new Error(`Wrong length in ${what}`)
      if (Number(reply.readBigUInt64LE(8)) !== round) throw new Error(`Wrong number in ${what}`)
      const error = reply.readInt32LE(4)
      if (error > 0 || error < -200 || (error < 0 && reply.length !== 16)) throw new Error(`Wrong error in ${what}`)
      if (!reply.equals(other)) throw new Error(`Answered by what lies behind it in ${what}`)
    }
    // No mistake of ours showed itself: those have a stack.
    expect(sessions[0]?.log.filter((line) => /\n {4}at /.test(line))).toEqual([])
  })

  test.each(Object.entries(OPCODE))('%s that is cut short is refused or needs no body', (_, opcode) => {
    const { session } = makeAll()
    for (let length = 0; length < 104; length++) {
      const request = frameOf(requestBytes(opcode, 2, Buffer.alloc(length), 9))
      const reply = runSync(session.handle(request))
      if (SILENT.has(opcode)) expect(reply).toBeUndefined()
      else expect(reply?.view.getUint32(8, true)).toBe(9)
    }
  })

  test('what is shorter than a header is nobody’s', () => {
    const { session } = makeAll()
    const message = requestBytes(OPCODE.GETATTR, 2, Buffer.alloc(16))
    for (let length = 0; length < REQUEST_HEADER; length++) {
      expect(runSync(session.handle(frameOf(message.subarray(0, length))))).toBeUndefined()
    }
  })
})
