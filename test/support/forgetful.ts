import { namedGuid } from '../../lib/bytes/guid.ts'
import type { FormatDriver } from '../../lib/contracts/driver.ts'
import type { Identity, ParentLink } from '../../lib/contracts/identity.ts'
import type { Layer, LinkEditor, WritableLayer } from '../../lib/contracts/layer.ts'
import { vhdx } from '../../lib/formats/vhdx/driver.ts'

/**
 * A format that says of its parent no more than an id, as many do: VHDX files, read as if their locator held nothing else.
 * Its own identity is that of the disk, and stays when the content changes.
 */
export const forgetful: FormatDriver = {
  ...vhdx,
  name: 'forgetful',
  *open(image, access) {
    return forgetting(yield* vhdx.open(image, access))
  },
  *create(image, shape) {
    return forgetting(yield* (vhdx.create as NonNullable<FormatDriver['create']>)(image, shape)) as WritableLayer
  },
  *check(layer, report) {
    yield* vhdx.check(REMEMBERED.get(layer) as Layer, report)
  },
}

const REMEMBERED = new WeakMap<Layer, Layer>()

function forgetting(layer: Layer): Layer {
  const seen = new Proxy(layer, {
    get(target, name) {
      if (name === 'format') return 'forgetful'
      if (name === 'identity' || name === 'nextIdentity') return identityOf(target)
      if (name === 'parent') return target.parent && forgottenLink(target.parent)
      if (name === 'merged') return undefined
      if (name === 'links') return editorOf((target as WritableLayer).links as LinkEditor)
      const value = Reflect.get(target, name, target) as unknown
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  REMEMBERED.set(seen, layer)
  return seen
}

function identityOf({ details }: Layer): Identity {
  return { kind: 'guid', value: namedGuid(JSON.stringify(details.virtualDiskId)), current: true, weak: true }
}

function forgottenLink({ expects, record }: ParentLink): ParentLink {
  const value = namedGuid(`${expects[0]?.value} ${record?.sample}`)
  const id = { kind: 'guid', value, current: true } as const
  return { references: [], format: 'forgetful', expects: [id], record: undefined, merging: false, replaced: undefined }
}

function editorOf(links: LinkEditor): LinkEditor {
  const never = (): never => {
    throw new TypeError('the format has no place for merges')
  }
  return { setParent: (parent) => links.setParent(parent), beginMerge: never, endMerge: never }
}
