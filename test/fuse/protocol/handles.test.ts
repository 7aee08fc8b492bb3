import { describe, expect, test } from 'vitest'
import { attributesOut, getAttributesIn } from '../../../fuse/protocol/messages.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { just, run, VdiskError } from '../../../lib/index.ts'
import { frameOf, hex, requestBytes, transfer, writeBody } from '../../support/fuse-messages.ts'
import { bodyOf, DISK, deferred, errorOf, makeSession, ofHandle, READING, WRITING } from '../../support/fuse-session.ts'
import { MemoryDevice } from '../../support/memory-device.ts'

const DIRECT_IO = 1
const KEEP_CACHE = 2
const PARALLEL_DIRECT_WRITES = 64

function handleOf(opened: { handle: number } | number): number {
  if (typeof opened === 'number') throw new Error(`It was not opened: ${opened}`)
  return opened.handle
}

describe('opening', () => {
  test('for writing is refused where the disk cannot be written', () => {
    const { ask } = makeSession({ writable: false })
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, DISK, '00000000 00000000')))).toBe(0)
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, DISK, '01000000 00000000')))).toBe(-30)
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, DISK, '02000000 00000000')))).toBe(-30)
  })

  test('keeps what the kernel has in its cache', () => {
    const { open } = makeSession()
    expect(open(DISK, READING)).toMatchObject({ openFlags: KEEP_CACHE })
    expect(open(DISK, WRITING)).toMatchObject({ openFlags: KEEP_CACHE })
  })

  test('knows folders from files', () => {
    const { ask } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, 1, '00000000 00000000')))).toBe(-21)
    expect(errorOf(ask(requestBytes(OPCODE.OPENDIR, DISK, '00000000 00000000')))).toBe(-20)
    expect(errorOf(ask(requestBytes(OPCODE.OPENDIR, 1, '00000000 00000000')))).toBe(0)
  })
})

describe('durability', () => {
  const write = requestBytes(OPCODE.WRITE, DISK, writeBody(0, hex('01')))
  const sync = requestBytes(OPCODE.FSYNC, DISK, '00'.repeat(16))
  const flushes = (device: MemoryDevice): number => device.calls.filter((call) => call === 'flush').length

  test('FSYNC flushes, always', () => {
    const { ask, device } = makeSession()
    ask(sync)
    ask(sync)
    expect(flushes(device)).toBe(2)
  })

  test('closing flushes if something was written, and tells the error', () => {
    const { ask, open, device } = makeSession()
    const close = ofHandle(OPCODE.FLUSH, DISK, handleOf(open(DISK, WRITING)))
    ask(close)
    expect(flushes(device)).toBe(0)
    ask(write)
    ask(close)
    ask(close)
    expect(flushes(device)).toBe(1)
    ask(write)
    device.before = (call) => {
      if (call === 'flush') throw new VdiskError('IO', { message: 'Cannot flush: the medium is gone' })
      return undefined
    }
    expect(errorOf(ask(close))).toBe(-5)
    expect(errorOf(ask(close))).toBe(-5)
  })

  test('who only reads need not wait for what others wrote', () => {
    const { ask, open, device } = makeSession()
    ask(write)
    ask(ofHandle(OPCODE.FLUSH, DISK, handleOf(open(DISK, READING))))
    expect(flushes(device)).toBe(0)
  })

  test('a write that ends after a flush began is covered by the next', async () => {
    const { session, ask, open, device } = makeSession()
    const close = ofHandle(OPCODE.FLUSH, DISK, handleOf(open(DISK, WRITING)))
    const end = deferred()
    device.before = (call) => (call.startsWith('write') ? end.promise : undefined)
    const writing = run(session.handle(frameOf(write)))
    device.before = () => undefined
    ask(sync)
    end.resolve()
    await writing
    ask(close)
    expect(flushes(device)).toBe(2)
  })

  test('a write that ends while a flush runs is covered by the next', async () => {
    const { session, ask, open, device } = makeSession()
    const close = ofHandle(OPCODE.FLUSH, DISK, handleOf(open(DISK, WRITING)))
    const end = deferred()
    device.before = (call) => (call === 'flush' ? end.promise : undefined)
    const flushing = run(session.handle(frameOf(sync)))
    ask(write)
    end.resolve()
    await flushing
    device.before = () => undefined
    ask(close)
    expect(flushes(device)).toBe(2)
  })

  test('DESTROY flushes what was written, whatever other files show it', () => {
    const { ask, device, tree, file } = makeSession()
    tree.addFile('view', new MemoryDevice(65536, { writable: false }), undefined, { content: file.content, start: 0 })
    expect(errorOf(ask(requestBytes(OPCODE.DESTROY, 0)))).toBe(0)
    expect(flushes(device)).toBe(1)
  })
})

describe('files that show the same bytes', () => {
  const DIRECT = { openFlags: DIRECT_IO | PARALLEL_DIRECT_WRITES }

  /** The disk of 64 KiB, and a window of it that begins at 4096. */
  function makePair(options: { direct?: boolean } = {}) {
    const made = makeSession()
    const window = made.tree.addFile('window', new MemoryDevice(8192), undefined, {
      content: made.file.content,
      start: 4096,
    })
    if (options.direct !== false) {
      window.direct = true
      made.file.direct = true
    }
    const close = (id: number, opened: { handle: number } | number): void =>
      void made.ask(ofHandle(OPCODE.RELEASE, id, handleOf(opened)))
    return { ...made, window, close }
  }

  test('are open for direct I/O, in any number and for writing', () => {
    const { open, window } = makePair()
    expect([open(DISK, WRITING), open(window.id, WRITING), open(DISK, READING)]).toMatchObject([DIRECT, DIRECT, DIRECT])
  })

  test('one that has its pages in the cache keeps the other from being written, until it is closed', () => {
    const { open, close, window, file, log } = makePair({ direct: false })
    const cached = open(DISK, READING)
    expect(cached).toMatchObject({ openFlags: KEEP_CACHE })
    window.direct = true
    file.direct = true
    expect(open(window.id, WRITING)).toBe(-16)
    expect(log).toEqual([expect.stringContaining('window')])
    expect(open(window.id, READING)).toMatchObject(DIRECT)
    // Two ways of opening one file do not mix.
    const again = open(DISK, WRITING)
    expect(again).toMatchObject({ openFlags: KEEP_CACHE })
    close(DISK, cached)
    expect(open(window.id, WRITING)).toBe(-16)
    close(DISK, again)
    expect(open(window.id, WRITING)).toMatchObject(DIRECT)
    expect(open(DISK, READING)).toMatchObject(DIRECT)
  })

  test('pages that are no longer right are dropped when the file is opened', () => {
    const { open, close, ask, window } = makePair({ direct: false })
    close(DISK, open(DISK, READING))
    const writer = open(window.id, WRITING)
    expect(open(DISK, READING)).toMatchObject(DIRECT)
    ask(requestBytes(OPCODE.WRITE, window.id, writeBody(0, hex('01'))))
    close(window.id, writer)
    expect(open(DISK, READING)).toMatchObject({ openFlags: 0 })
    expect(open(DISK, READING)).toMatchObject({ openFlags: KEEP_CACHE })
  })

  test('count their room anew when another was written', () => {
    const { ask, file, window } = makePair()
    file.occupied = 4096
    ask(requestBytes(OPCODE.WRITE, window.id, writeBody(0, hex('01'))))
    expect(file.occupied).toBeUndefined()
    expect(file.unflushed).toBe(true)
    expect(file.modified).toBe(window.modified)
  })
})

describe('texts', () => {
  function makeText() {
    const made = makeSession()
    let count = 0
    const text = made.tree.addText('status.json', () => just(`text number ${++count}`))
    const readText = (handle: number, offset = 0, size = 4096): string => {
      const body = transfer(offset, size)
      body.writeBigUInt64LE(BigInt(handle), 0)
      return bodyOf(made.ask(requestBytes(OPCODE.READ, text.id, body))).toString()
    }
    const sizeOf = (handle?: number): number => {
      const body = getAttributesIn.encode({ flags: handle === undefined ? 0 : 1, handle: handle ?? 0 })
      return attributesOut.decode(bodyOf(made.ask(requestBytes(OPCODE.GETATTR, text.id, body)))).size
    }
    return { ...made, text, readText, sizeOf }
  }

  test('are what they were when they were opened, each for who opened it', () => {
    const { open, text, readText, sizeOf } = makeText()
    const first = open(text.id, READING)
    const second = open(text.id, READING)
    expect(first).toMatchObject({ openFlags: DIRECT_IO })
    expect(readText(handleOf(first))).toBe('text number 1')
    expect(readText(handleOf(second))).toBe('text number 2')
    expect(readText(handleOf(first), 5, 6)).toBe('number')
    expect(readText(handleOf(first), 13)).toBe('')
    expect(sizeOf(handleOf(first))).toBe('text number 1'.length)
  })

  test('show the size of what they would say now, and for no longer than that', () => {
    const { ask, text, sizeOf } = makeText()
    for (let count = 1; count < 10; count++) expect(sizeOf()).toBe('text number 1'.length)
    expect(sizeOf()).toBe('text number 10'.length)
    const reply = attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.GETATTR, text.id, '00'.repeat(16)))))
    expect(reply).toMatchObject({ validSeconds: 0, mode: 0o100400 })
  })

  test('cannot be written, and are gone when they are closed', () => {
    const { ask, open, text, readText } = makeText()
    expect(open(text.id, WRITING)).toBe(-30)
    expect(errorOf(ask(requestBytes(OPCODE.WRITE, text.id, writeBody(0, hex('01')))))).toBe(-30)
    const handle = handleOf(open(text.id, READING))
    expect(errorOf(ask(ofHandle(OPCODE.FLUSH, text.id, handle)))).toBe(0)
    expect(readText(handle)).toBe('text number 1')
    ask(ofHandle(OPCODE.RELEASE, text.id, handle))
    expect(errorOf(ask(requestBytes(OPCODE.READ, text.id, transfer(0, 10))))).toBe(-9)
    // The size of one that is open no more is that of a new one.
    expect(errorOf(ask(requestBytes(OPCODE.GETATTR, text.id, '01000000 00000000 01000000 00000000')))).toBe(0)
  })

  test('are open in a bounded number', () => {
    const { ask, open, text } = makeText()
    const handles = Array.from({ length: 256 }, () => handleOf(open(text.id, READING)))
    expect(open(text.id, READING)).toBe(-23)
    ask(ofHandle(OPCODE.RELEASE, text.id, handles[0] as number))
    expect(open(text.id, READING)).toMatchObject({ openFlags: DIRECT_IO })
  })

  test('that cannot be made are an error for who opens them', () => {
    const { ask, open, tree, log } = makeSession()
    const broken = tree.addText('broken', () => {
      throw new VdiskError('IO', { message: 'Cannot tell: a test says so' })
    })
    expect(open(broken.id, READING)).toBe(-5)
    expect(log).toEqual(['OPEN failed: Cannot tell: a test says so.'])
    expect(errorOf(ask(requestBytes(OPCODE.READ, broken.id, transfer(0, 10))))).toBe(-9)
  })
})
