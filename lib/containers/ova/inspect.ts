import type { InnerImage } from '../../contracts/container.ts'
import { Inspection, type Inspector, quoted } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import { type Io, just } from '../../io/io.ts'
import { type Appliance, descriptorOf, memberOf, readAppliance } from './appliance.ts'
import { firstMemberOf } from './tar-reader.ts'

/** Disks that are judged: each costs some megabytes of reading. No machine of a common kind has more. */
const MOST_DISKS = 64

const PLACE = { structure: 'archive', at: 0, section: 'ustar Interchange Format' }

/**
 * Judges an appliance as an archive: whether programs can see different things in it, and whether it names what lies outside.
 * The disks in it are judged by their own judges.
 */
export const ovaInspector: Inspector = {
  name: 'ova',
  recognizes: ({ head }) => just(firstMemberOf(head)?.toLowerCase().endsWith('.ovf') ?? false),
  *inspect(file, inspection) {
    const appliance = yield* inspection.attempt(() => readAppliance(file))
    if (appliance) {
      judgeNames(appliance, inspection)
      yield* judgeDescriptor(file, appliance, inspection)
    }
  },
}

/**
 * Where the disks lie that the descriptor names. Disks that lie outside have been found already; those that are packed, or
 * more than anybody looks at, are a concern.
 */
export function* disksToJudge(file: BoundedStore, inspection: Inspection): Io<readonly InnerImage[]> {
  // What keeps the descriptor from being read was told by the inspector.
  const found = yield* new Inspection().attempt(function* () {
    const appliance = yield* readAppliance(file)
    return { appliance, ovf: yield* descriptorOf(file, appliance) }
  })
  if (!found) return []
  const { appliance, ovf } = found
  const place = { structure: 'OVF descriptor', section: 'DiskSection' }
  const files = [...new Set(ovf.disks.flatMap((disk) => disk.file ?? []))]
  if (files.length > MOST_DISKS) {
    const message = `It has ${files.length} disks, of which the first ${MOST_DISKS} are judged.`
    inspection.add('NOT_JUDGED', place, message)
  }
  const images: InnerImage[] = []
  for (const one of files.slice(0, MOST_DISKS)) {
    const member = memberOf(appliance, one)
    const isPacked = one.compression !== undefined || one.isChunked
    if (isPacked) inspection.add('NOT_JUDGED', place, `Its disk ${quoted(one.href)} is stored compressed or in pieces.`)
    else if (!member) inspection.add('INCOMPLETE', place, `Its disk ${quoted(one.href)} is not in the archive.`)
    else if (member.kind === 'file') images.push({ name: member.name, at: member.at, length: member.length })
  }
  return images
}

function judgeNames({ members, ended }: Appliance, inspection: Inspection): void {
  if (!ended) inspection.add('TRUNCATED', PLACE, 'The file ends before its archive does.')
  const seen = new Set<string>()
  for (const { name, kind, headerAt } of members) {
    const place = { ...PLACE, structure: 'tar header', at: headerAt }
    if (seen.has(name)) inspection.add('COPIES_DIFFER', place, `Two of its members are called ${quoted(name)}.`)
    seen.add(name)
    if (kind === 'other')
      inspection.add('EXTERNAL_DATA', place, `Its member ${quoted(name)} is a link, a device or a folder.`)
    if (kind === 'sparse')
      inspection.add('UNKNOWN_FEATURE', place, `Its member ${quoted(name)} is stored without its holes.`)
    if (/(?:^|[/\\])\.\.(?:[/\\]|$)|^[/\\]|^[a-z]:/i.test(name)) {
      inspection.add('EXTERNAL_DATA', place, `Its member ${quoted(name)} would be unpacked outside of its folder.`)
    }
  }
}

function* judgeDescriptor(file: BoundedStore, appliance: Appliance, inspection: Inspection): Io<void> {
  const ovf = yield* inspection.attempt(() => descriptorOf(file, appliance))
  for (const { href } of ovf?.files ?? []) {
    if (!/^[a-z][a-z0-9+.-]*:|^[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)/i.test(href)) continue
    const place = { structure: 'OVF descriptor', section: 'References section' }
    inspection.add('EXTERNAL_DATA', place, `It names a file outside of the archive: ${quoted(href)}.`)
  }
}
