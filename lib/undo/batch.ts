import { roundUp } from '../bytes/align.ts'
import { crc32c } from '../bytes/crc32c.ts'
import { batchHeader, MAGIC, recordHeader, SECTOR, sealed } from './layout.ts'

/** A record to be written; see `KIND`. */
export interface NewRecord {
  readonly kind: number
  readonly file: number
  readonly at: bigint
  readonly length: bigint
  readonly payload?: Uint8Array | undefined
}

export function recordOf(record: NewRecord): Uint8Array {
  const payload = record.payload ?? new Uint8Array(0)
  const bytes = new Uint8Array(recordHeader.size + payload.length)
  recordHeader.encode({ ...record, payload: payload.length }, bytes)
  bytes.set(payload, recordHeader.size)
  return bytes
}

/** A batch of records, up to where the next one begins. @param id of the journal */
export function batchOf(id: string, number: number, body: Uint8Array): Uint8Array {
  const head = batchHeader.encode({
    magic: MAGIC.batch,
    id,
    number,
    bodyLength: body.length,
    bodyChecksum: crc32c(body),
    checksum: 0,
  })
  const batch = new Uint8Array(roundUp(head.length + body.length, SECTOR))
  batch.set(sealed(head, batchHeader.offsetOf('checksum')))
  batch.set(body, head.length)
  return batch
}
