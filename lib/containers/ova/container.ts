import type { Container } from '../../contracts/container.ts'
import type { Image } from '../../contracts/image.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import { WindowStore } from '../../io/window-store.ts'
import { type Appliance, findDisk, memberNamed, readAppliance } from './appliance.ts'
import { checkAppliance } from './check.ts'
import { disksToJudge, ovaInspector } from './inspect.ts'
import { ovaPacking } from './packing.ts'
import { firstMemberOf, type Member } from './tar-reader.ts'

/**
 * An appliance: disks, and what machine they are for, in one archive. A disk inside is read where it lies.
 *
 * Names of members are compared and shown, and never become paths.
 */
export const ova: Container = {
  name: 'OVA',
  extensions: ['.ova'],
  hasMembers: true,

  probe(sample) {
    const name = firstMemberOf(sample.head)
    if (name === undefined) return 'no'
    const known = name.toLowerCase().endsWith('.ovf') || sample.name.toLowerCase().endsWith('.ova')
    return known ? 'yes' : 'perhaps'
  },

  *open(image, member) {
    const appliance = yield* readAppliance(image.store, image.signal)
    const disk = yield* findDisk(image.store, appliance, member)
    return yield* inside(image, appliance, disk)
  },

  check: checkAppliance,
  packing: ovaPacking,
  inspector: ovaInspector,
  imagesIn: disksToJudge,
}

function* inside(image: Image, appliance: Appliance, disk: Member): Io<Image> {
  const { name, signal, leaveOut } = image
  const fileSize = yield* settle(image.store.size())
  const windowOn = (member: Member, owned: boolean): WindowStore =>
    new WindowStore(image.store, {
      at: member.at,
      length: member.length,
      wrapping: { container: ova.name, member: member.name, fileSize },
      owned,
    })
  return {
    name,
    signal,
    leaveOut,
    store: windowOn(disk, true),
    neighbour(reference, access) {
      if (access === 'read') return just(windowOn(memberNamed(appliance, reference), false))
      throw new VdiskError('READ_ONLY', {
        message: `Cannot write "${reference}" in ${name}: an archive is only read`,
        where: { file: name },
      })
    },
  }
}
