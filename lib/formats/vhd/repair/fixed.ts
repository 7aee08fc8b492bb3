import { type Io, settle } from '../../../io/io.ts'
import type { FooterCopy, Footers } from '../footer.ts'
import { SECTOR } from '../layout.ts'
import type { Mending } from './mending.ts'

/** The footer of a fixed disk is the last sector of its file, right behind the disk. ["Overview"] */
export function* mendFixed(mending: Mending, { current, tail, fileSize }: Footers): Io<void> {
  const { store } = mending
  // A fixed disk has no other footer: without it the file is none.
  const { at, length } = tail as FooterCopy
  const { currentSize } = current.fields
  if (fileSize > at + length && !mending.isForLeaks) {
    const message = 'zeros behind the footer were cut off: a growth was cut short'
    mending.tell({ code: 'FOOTER_NOT_LAST', structure: 'footer', at, message })
    yield* settle(store.truncate(at + length))
    yield* settle(store.flush())
  }
  if (at <= currentSize) return
  const message = `${at - currentSize} bytes between the disk and its footer were cut out`
  yield* mending.write(currentSize, current.bytes, {
    code: 'ROOM_UNUSED',
    structure: 'file',
    at: currentSize,
    message,
  })
  yield* settle(store.truncate(currentSize + SECTOR))
  yield* settle(store.flush())
}
