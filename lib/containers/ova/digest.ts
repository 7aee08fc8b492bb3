import { createHash } from 'node:crypto'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { DIGESTS } from './manifest.ts'

/** Bytes read at a time. */
const PIECE = 1 << 20

/**
 * The digest of a part of a store, hexadecimal.
 *
 * @param advance is told of bytes that were read, and may throw to end the work
 */
export function* digestOf(
  store: ByteStore,
  { at, length }: { readonly at: number; readonly length: number },
  algorithm: keyof typeof DIGESTS,
  advance: (bytes: number) => Io<void>,
): Io<string> {
  const hash = createHash(DIGESTS[algorithm])
  const buffer = Buffer.allocUnsafe(Math.min(PIECE, length))
  for (let done = 0; done < length; ) {
    const part = buffer.subarray(0, Math.min(PIECE, length - done))
    yield* settle(store.read(at + done, part))
    hash.update(part)
    done += part.length
    yield* advance(part.length)
  }
  return hash.digest('hex')
}

/** The digest of bytes, hexadecimal. */
export function digestOfBytes(bytes: Uint8Array, algorithm: keyof typeof DIGESTS): string {
  return createHash(DIGESTS[algorithm]).update(bytes).digest('hex')
}
