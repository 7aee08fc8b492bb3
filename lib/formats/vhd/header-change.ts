import { type Io, settle } from '../../io/io.ts'
import type { VhdEditor } from './editor.ts'
import type { Footer } from './footer.ts'
import type { DynamicHeader } from './header.ts'
import { dynamicHeader } from './layout.ts'
import { parentNames } from './locators.ts'

/** A header, and what lies behind it. */
export interface NewHeader {
  readonly header: DynamicHeader
  readonly data: Uint8Array
}

/**
 * Puts another header in the place of the present one, in one step: it is written to new room with all that it names, and
 * becomes true with the footer, one sector, that points at it. ["Hard Disk Footer Format", "Data Offset"]
 *
 * The old header is left where it is, a thousand bytes that nobody uses: in a strange file something else may lie there.
 *
 * @param make makes the header; `dataAt` is where the data behind it will lie
 * @param change what else the footer says from then on
 */
export function* replaceHeader(
  layer: VhdEditor,
  make: (dataAt: number) => NewHeader,
  change: (footer: Footer) => Footer,
): Io<void> {
  const { space, store, structure } = layer
  const { length } = make(0).data
  const at = yield* space.allocate(dynamicHeader.size + length)
  const { header, data } = make(at + dynamicHeader.size)
  yield* settle(store.write(at, header.bytes))
  if (length > 0) yield* settle(store.write(at + dynamicHeader.size, data))
  yield* settle(store.flush())
  yield* space.changeFooter((footer) => change(footer).with({ dataOffset: at }))
  structure.footer = space.footers.current
  structure.header = header
  structure.names = yield* parentNames(store, header, space.footers.end)
}
