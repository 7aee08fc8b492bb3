import { ZERO_GUID } from '../../bytes/guid.ts'
import type { Identity, NewParent, ParentLink, ParentRecord } from '../../contracts/identity.ts'
import { standInGuid } from '../../contracts/stand-in.ts'
import type { DynamicHeader, HeaderFields } from './header.ts'
import { EPOCH } from './layout.ts'
import { headerName } from './locators.ts'

/**
 * How a child knows its parent: by the unique id in the footer of the parent's file, which stays whatever is written
 * there; and by the time when that file was last changed. ["Dynamic Disk Header Format", "Parent Unique ID", "Parent Time
 * Stamp"]
 */

/** Who the parent is, as the child has it. @param names in the order in which they are to be tried */
export function parentLinkOf(
  { fields: { parentId, parentTime } }: DynamicHeader,
  names: readonly string[],
): ParentLink {
  return {
    references: names,
    format: 'vhd',
    expects: parentId === ZERO_GUID ? [] : [fileIdentity(parentId)],
    record: undefined,
    modified: parentTime === 0 ? undefined : parentTime + EPOCH,
    merging: false,
    replaced: undefined,
  }
}

/** The fields of a header that say who the parent is; undefined: there is none. */
export function parentFields(parent: NewParent | undefined): Partial<HeaderFields> {
  if (!parent) return { parentId: ZERO_GUID, parentTime: 0, parentName: new Uint8Array(512) }
  const { format, identity } = parent
  const isVhd = format === 'vhd' && identity?.kind === 'file'
  return {
    parentId: isVhd ? identity.value : standInGuid(parent),
    parentTime: timeOf(parent.record),
    parentName: headerName(parent.path),
  }
}

/** The identity that the GUID of a VHD file is: no program changes it when it writes. */
export function fileIdentity(value: string): Identity {
  return { kind: 'file', value, current: true, weak: true }
}

/** When a parent's file was last changed, as the format counts; 0: that is not known. */
function timeOf({ stamp }: Pick<ParentRecord, 'stamp'>): number {
  const seconds = stamp ? Number(stamp.modified / 1_000_000_000n) - EPOCH : 0
  return Math.min(0xffffffff, Math.max(0, seconds))
}
