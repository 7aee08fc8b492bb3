import { roundUp } from '../../../bytes/align.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import { FOOTER_SECTION, spotIn } from '../damage.ts'
import { type Footer, type FooterCopy, type Footers, readFooters } from '../footer.ts'
import { SECTOR } from '../layout.ts'
import { openParts, usedEnd } from '../open.ts'
import type { Mending } from './mending.ts'

/**
 * The footer and its copy, of which one counts at least; the other is written anew. ["Overview"]
 *
 * The footer at the end goes behind everything that anything names, where the file does not reach further. Where neither
 * counts, and the user knows that what it says is right, it gets the checksum of that: the whole disk is doubtful then.
 *
 * @throws VdiskError CORRUPT where neither counts
 */
export function* mendFooters(mending: Mending): Io<Footers> {
  const { image, store } = mending
  const found = yield* readFooters(image, store)
  if (!found.current.isSound) yield* believe(mending, found)
  const footers = found.current.isSound ? found : yield* readFooters(image, store)
  const { current, tail, head } = footers
  if (current.isFixed || mending.isForLeaks) return footers
  const isLast = tail !== undefined && isAlike(tail.footer, current, tail.length)
  if (!isLast) {
    const used = yield* usedEnd(mending.image, yield* openParts(image, footers))
    const at = Math.max(roundUp(used, SECTOR), roundUp(footers.fileSize, SECTOR) - SECTOR)
    const message = 'the footer at the end of the file was written anew, from its copy at the beginning'
    yield* mending.write(at, current.bytes, { code: codeFor(tail?.footer), structure: 'footer', at, message })
  }
  if (!head?.footer.equals(current)) {
    const message = 'the copy of the footer at the beginning of the file was written anew'
    yield* mending.write(0, current.bytes, { code: codeFor(head?.footer), structure: 'footer', at: 0, message })
  }
  return yield* readFooters(image, store)
}

/**
 * The one that would count gets the checksum of what it says.
 *
 * @throws VdiskError CORRUPT where the user has not said that it is right
 */
function* believe(mending: Mending, { current, tail, head }: Footers): Io<void> {
  const { name, store, report, isForLeaks } = mending
  const { at, length } = (tail ?? head) as FooterCopy
  if (!report.ignoreChecksums || isForLeaks) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot repair ${name}: the checksum of its footer is wrong, and there is no copy that could say what it was`,
      where: spotIn(name, { structure: 'footer', at, section: FOOTER_SECTION }),
      advice:
        'See what it says: vdisk info IMAGE --force. If that is right: vdisk check IMAGE --repair --force, or vdisk convert IMAGE COPY --force',
    })
  }
  report.add({
    code: 'FOOTER_DAMAGED',
    structure: 'footer',
    at,
    doubtful: { offset: 0, length: current.fields.currentSize, snapshot: undefined },
    message: 'the checksum of the footer was wrong: it got the one of what it says, which was believed',
  })
  mending.isDoubtful = true
  yield* settle(store.write(at, current.with({}).bytes.subarray(0, length)))
  yield* settle(store.flush())
}

function codeFor(copy: Footer | undefined): string {
  return !copy ? 'FOOTER_MISSING' : copy.isSound ? 'FOOTERS_DIFFER' : 'FOOTER_DAMAGED'
}

function isAlike(a: Footer, b: Footer, length: number): boolean {
  return Buffer.compare(a.bytes.subarray(0, length), b.bytes.subarray(0, length)) === 0
}
