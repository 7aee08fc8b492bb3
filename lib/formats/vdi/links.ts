import { namedGuid, ZERO_GUID } from '../../bytes/guid.ts'
import type { NewParent } from '../../contracts/identity.ts'
import type { HeaderFields } from './header.ts'
import { TYPE } from './layout.ts'

export type LinkFields = Pick<HeaderFields, 'type' | 'linkage' | 'parentModified'>

/** What the header says of a parent; undefined: of none. [uuidLinkage, uuidParentModify] */
export function linkTo(parent: NewParent | undefined): LinkFields {
  if (!parent) return { type: TYPE.dynamic, linkage: ZERO_GUID, parentModified: ZERO_GUID }
  const own = parent.format === 'vdi' ? parent.identity?.value.split('/') : undefined
  const [linkage, parentModified] = own ?? [standIn(parent), standIn(parent)]
  return { type: TYPE.differencing, linkage: linkage as string, parentModified: parentModified as string }
}

/** A parent of another format has no GUIDs: one made of what is known of it stands for both. */
function standIn({ identity, record }: NewParent): string {
  return namedGuid(identity ? `${identity.kind} ${identity.value}` : `sample ${record.size} ${record.sample ?? ''}`)
}
