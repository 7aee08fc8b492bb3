import { ZERO_GUID } from '../../bytes/guid.ts'
import type { NewParent } from '../../contracts/identity.ts'
import { standInGuid } from '../../contracts/stand-in.ts'
import type { HeaderFields } from './header.ts'
import { TYPE } from './layout.ts'

export type LinkFields = Pick<HeaderFields, 'type' | 'linkage' | 'parentModified'>

/** What the header says of a parent; undefined: of none. [uuidLinkage, uuidParentModify] */
export function linkTo(parent: NewParent | undefined): LinkFields {
  if (!parent) return { type: TYPE.dynamic, linkage: ZERO_GUID, parentModified: ZERO_GUID }
  // A parent of another format has no GUIDs: one made of what is known of it stands for both.
  const [linkage, parentModified = linkage] =
    parent.format === 'vdi' && parent.identity ? parent.identity.value.split('/') : [standInGuid(parent)]
  return { type: TYPE.differencing, linkage: linkage as string, parentModified: parentModified as string }
}
