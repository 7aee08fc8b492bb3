import type { Inspection, Inspector } from '../../contracts/inspection.ts'
import { quoted } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import { type Io, just } from '../../io/io.ts'
import { type Appliance, descriptorOf, readAppliance } from './appliance.ts'
import { firstMemberOf } from './tar-reader.ts'

const PLACE = { structure: 'archive', at: 0, section: 'ustar Interchange Format' }

/**
 * Judges an appliance as an archive: whether programs can see different things in it, and whether it names what lies outside.
 * The disks in it are another matter.
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
    inspection.add(
      'NOT_JUDGED',
      PLACE,
      'The disks in it are judged one by one: take them out, within bounds, and look again.',
    )
  },
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
