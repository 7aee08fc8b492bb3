import type { Inspector } from '../contracts/inspection.ts'
import { just } from '../io/io.ts'

/** Judges files that are only known by how they begin: what is in them cannot be seen without unpacking it. */
export function compressedInspector(name: string, begins: (head: Uint8Array) => boolean): Inspector {
  return {
    name,
    recognizes: ({ head }) => just(begins(head)),
    *inspect(_file, inspection) {
      inspection.add(
        'NOT_JUDGED',
        { structure: 'file', at: 0 },
        'It is compressed: unpack it, within bounds, and look again.',
      )
      yield* just(undefined)
    },
  }
}
