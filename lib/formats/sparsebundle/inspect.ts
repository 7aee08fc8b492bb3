import type { Inspector } from '../../contracts/inspection.ts'
import { just } from '../../io/io.ts'
import { BUNDLE_TYPE, DESCRIPTION } from './layout.ts'
import { describesBundle } from './recognize.ts'

/** A .sparsebundle is a folder; what can be judged is the file in it that describes it. */
export const sparseBundleInspector: Inspector = {
  name: 'sparsebundle',
  recognizes: ({ head }) => just(describesBundle(head)),
  *inspect(_file, inspection) {
    const message = `It only describes a bundle of files (${BUNDLE_TYPE}).`
    inspection.add('EXTERNAL_DATA', { structure: DESCRIPTION, at: 0 }, message)
    yield* just(undefined)
  },
}
