import type { Sample } from '../../contracts/image.ts'
import { copyIn } from './footer.ts'
import { SECTOR, SHORT_FOOTER } from './layout.ts'

/** Names by which a file claims to be one of the format, so that it is not taken for a raw disk where its footer is lost. */
const NAMES = /\.(vhd|avhd|vud)$/i

/**
 * A footer at the end; or at the beginning a copy of one that is whole and not a fixed disk's, for there the first sector
 * belongs to the guest.
 */
export function probeVhd({ name, size, head, tail }: Sample): 'yes' | 'perhaps' | 'no' {
  const last = copyIn(tail, size - SECTOR) ?? copyIn(tail.subarray(tail.length - SHORT_FOOTER), size - SHORT_FOOTER)
  if (last) return 'yes'
  const first = copyIn(head.subarray(0, SECTOR), 0)
  if (first?.footer.isSound && !first.footer.isFixed) return 'yes'
  return NAMES.test(name) || first ? 'perhaps' : 'no'
}
