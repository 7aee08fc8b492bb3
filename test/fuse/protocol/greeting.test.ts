import { describe, expect, test } from 'vitest'
import { initOut } from '../../../fuse/protocol/messages.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { hex, requestBytes } from '../../support/fuse-messages.ts'
import { bodyOf, errorOf, makeSession } from '../../support/fuse-session.ts'

describe('INIT', () => {
  test('a kernel of 7.45 is answered in 7.31, with those of its flags that we use', () => {
    const { ask } = makeSession()
    const reply = ask(
      hex(`68000000 1a000000 0200000000000000 0000000000000000 00000000 00000000 00000000 00000000
           07000000 2d000000 00000200 fbffff73 7d070000 ${'00'.repeat(44)}`),
    )
    expect(reply.toString('hex')).toBe(
      [
        '50000000',
        '00000000',
        '0200000000000000', // 80 bytes, no error, the same number
        '07000000',
        '1f000000',
        '00000200', // 7.31, readahead as offered
        '21e04440', // ASYNC_READ, BIG_WRITES, READDIRPLUS and its AUTO, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES, INIT_EXT
        '4000',
        '3000', // 64 in the background, slow from 48
        '00001000',
        '01000000',
        '0001', // 1 MiB, nanoseconds, 256 pages
        '0000',
        '10000000', // DIRECT_IO_ALLOW_MMAP
        '00'.repeat(28),
      ].join(''),
    )
  })

  test('what a kernel does not offer is not taken', () => {
    const { ask } = makeSession()
    const reply = ask(requestBytes(OPCODE.INIT, 0, '07000000 17000000 00000200 01000000'))
    expect(initOut.decode(bodyOf(reply))).toMatchObject({ major: 7, minor: 23, flags: 1, flags2: 0 })
  })

  test('a kernel before 7.23 is refused, in words', () => {
    const { ask, log } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.INIT, 0, '07000000 16000000 00000200 01000000')))).toBe(-71)
    expect(log).toEqual([expect.stringContaining('7.22')])
  })

  test('a kernel of a later major version learns ours', () => {
    const { ask } = makeSession()
    const reply = ask(requestBytes(OPCODE.INIT, 0, '08000000 00000000 00000200 01000000'))
    expect(initOut.decode(bodyOf(reply))).toMatchObject({ major: 7, minor: 31 })
  })
})
