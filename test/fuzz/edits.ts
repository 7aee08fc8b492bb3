import { crc32 } from '../../lib/bytes/crc32.ts'
import { crc32c } from '../../lib/bytes/crc32c.ts'
import { guidFromMixedEndian } from '../../lib/bytes/guid.ts'
import { md5 } from '../../lib/bytes/md5.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { logEntry } from '../support/vhdx-file.ts'

/**
 * A checksum in a file: over `length` bytes at `at`; if its own bytes lie there, four for all but MD5, they count as zero. CRCs
 * are stored little-endian, the ones' complement of the sum of all bytes big-endian; of a tar header the sum is a text, for which
 * spaces are counted.
 */
export interface Sum {
  readonly at: number
  readonly length: number
  /** bytes from the start of the file */
  readonly sumAt: number
  readonly kind: 'crc32' | 'crc32c' | 'md5' | 'ones-complement' | 'tar'
}

/** One update that a log entry asks for; data is derived from `seed`, or is what lies at `like` in the file. */
export type LogUpdate =
  | { readonly at: number; readonly zeros: number }
  | { readonly at: number; readonly like: number; readonly flip: number }

/** A log entry with checksums that fit. Numbers may be anything: what does not fit its field is cut to it. */
export interface LoggedEntry {
  /** bytes from the start of the log */
  readonly at: number
  readonly sequence: number
  readonly tail: number
  readonly flushed: number
  readonly last: number
  readonly updates: readonly LogUpdate[]
}

/** One change to the bytes of an image: plain data, so that a list of them can be kept, shortened and replayed. */
export type Edit =
  | { readonly do: 'put'; readonly at: number; readonly hex: string }
  | { readonly do: 'fill'; readonly at: number; readonly length: number; readonly byte: number }
  | { readonly do: 'copy'; readonly from: number; readonly length: number; readonly at: number }
  | { readonly do: 'resize'; readonly size: number }
  | ({ readonly do: 'sum' } & Sum)
  | { readonly do: 'log'; readonly at: number; readonly length: number; readonly entries: readonly LoggedEntry[] }

/** Files do not get longer than this by one edit that writes: holes can, bytes cost memory. */
const LONGEST_COPY = 1 << 20

/** Changes a store; what lies outside of it is left out. Edits that came first are seen by those that follow. */
export function applyEdits(store: ByteStore, edits: readonly Edit[]): void {
  for (const edit of edits) applyEdit(store, edit)
}

function applyEdit(store: ByteStore, edit: Edit): void {
  const size = store.size() as number
  switch (edit.do) {
    case 'put':
      if (edit.at <= size) void store.write(edit.at, Buffer.from(edit.hex, 'hex'))
      return
    case 'fill':
      if (edit.at <= size)
        void store.write(edit.at, new Uint8Array(Math.min(edit.length, LONGEST_COPY)).fill(edit.byte))
      return
    case 'copy': {
      const length = Math.min(edit.length, size - edit.from, LONGEST_COPY)
      if (length > 0) void store.write(edit.at, bytesOf(store, edit.from, length))
      return
    }
    case 'resize':
      void store.truncate(edit.size)
      return
    case 'sum':
      applySum(store, edit)
      return
    case 'log':
      if (edit.at + edit.length <= size) applyLog(store, edit)
  }
}

/** Bytes of a sum, where they are not four. */
const WIDTH: Partial<Record<Sum['kind'], number>> = { md5: 16, tar: 8 }

function applySum(store: ByteStore, { at, length, sumAt, kind }: Sum): void {
  if (Math.max(at + length, sumAt + (WIDTH[kind] ?? 4)) > (store.size() as number)) return
  const bytes = bytesOf(store, at, length)
  if (kind === 'md5') {
    void store.write(sumAt, md5(bytes))
    return
  }
  if (kind === 'tar') {
    bytes.fill(0x20, sumAt - at, sumAt - at + 8)
    const sum = bytes.reduce((total, byte) => total + byte, 0)
    void store.write(sumAt, Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `))
    return
  }
  if (sumAt >= at && sumAt + 4 <= at + length) bytes.fill(0, sumAt - at, sumAt - at + 4)
  const sum = Buffer.alloc(4)
  if (kind === 'ones-complement') sum.writeUInt32BE(~bytes.reduce((total, byte) => total + byte, 0) >>> 0)
  else sum.writeUInt32LE(kind === 'crc32' ? crc32(bytes) : crc32c(bytes))
  void store.write(sumAt, sum)
}

/** The GUID that a log must carry is the current header's: the one of the first header serves, both get the same. */
function applyLog(store: ByteStore, log: Extract<Edit, { do: 'log' }>): void {
  const guid = guidFromMixedEndian(bytesOf(store, 65536 + 48, 16))
  for (const entry of log.entries) {
    const { sequence, tail, flushed, last } = entry
    const updates = entry.updates.map((update) =>
      'zeros' in update
        ? { at: wide(update.at), zeros: wide(update.zeros) }
        : { at: wide(update.at), bytes: updateBytes(store, update) },
    )
    const bytes = logEntry({
      guid,
      sequence: wide(sequence),
      tail: tail >>> 0,
      flushed: wide(flushed),
      last: wide(last),
      updates,
    })
    const at = entry.at % log.length
    const fits = Math.min(bytes.length, log.length - at)
    void store.write(log.at + at, bytes.subarray(0, fits))
    if (fits < bytes.length) void store.write(log.at, bytes.subarray(fits, fits + log.length))
  }
}

function updateBytes(store: ByteStore, { like, flip }: { like: number; flip: number }): Uint8Array {
  const size = store.size() as number
  const bytes = new Uint8Array(4096)
  const there = Math.max(0, Math.min(4096, size - like))
  if (there > 0) bytes.set(bytesOf(store, like, there))
  bytes[flip % 4096] = (bytes[flip % 4096] as number) ^ (1 << ((flip >>> 12) % 8))
  return bytes
}

function wide(value: number): bigint {
  return BigInt.asUintN(64, BigInt(Math.trunc(value)))
}

export function bytesOf(store: ByteStore, at: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  void store.read(at, bytes)
  return bytes
}
