import type { initIn, initOut } from './messages.ts'
import * as wire from './protocol.ts'

/** What we ask for, if the kernel offers it. Lock requests are left out, so the kernel keeps locks by itself. */
const WANTED =
  wire.FLAG.ASYNC_READ |
  wire.FLAG.BIG_WRITES |
  wire.FLAG.DO_READDIRPLUS |
  wire.FLAG.READDIRPLUS_AUTO |
  wire.FLAG.ASYNC_DIO |
  wire.FLAG.PARALLEL_DIROPS |
  wire.FLAG.MAX_PAGES |
  wire.FLAG.INIT_EXT

const WANTED2 = wire.FLAG2.DIRECT_IO_ALLOW_MMAP

/** Requests that the kernel has in flight without anybody waiting for them, and from where on it slows down. */
const MAX_BACKGROUND = 64
const CONGESTION = 48

/** Whether these are layouts that we know. */
export function isSpoken({ major, minor }: Offer): boolean {
  return major > wire.MAJOR || (major === wire.MAJOR && minor >= wire.OLDEST_MINOR)
}

type Offer = ReturnType<typeof initIn.decode>

/**
 * What the two sides agree on: the answer to INIT.
 *
 * Written data is not kept back in the kernel (WRITEBACK_CACHE): it would acknowledge writes that nobody has seen yet,
 * and own size and times of files whose bytes other files show too.
 *
 * @param flags2 the kernel's flags beyond the 32nd
 */
export function greet(offer: Offer, flags2: number): ReturnType<typeof initOut.decode> {
  return {
    major: wire.MAJOR,
    // A kernel of a later major version sees ours, and asks again in our language.
    minor: offer.major > wire.MAJOR ? wire.MINOR : Math.min(offer.minor, wire.MINOR),
    maxReadahead: offer.maxReadahead,
    flags: (offer.flags & WANTED) >>> 0,
    maxBackground: MAX_BACKGROUND,
    congestionThreshold: CONGESTION,
    maxWrite: wire.MAX_TRANSFER,
    timeGranularity: 1,
    maxPages: wire.MAX_PAGES,
    flags2: (flags2 & WANTED2) >>> 0,
  }
}
