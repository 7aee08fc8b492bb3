import type { CheckReport } from '../../contracts/check-report.ts'
import type { Image } from '../../contracts/image.ts'
import { isVdiskError, reasonOf } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import { type Appliance, memberOf, readAppliance, readMember } from './appliance.ts'
import { digestOf } from './digest.ts'
import { type ManifestLine, parseManifest } from './manifest.ts'
import { LONGEST_OVF, type Ovf, readOvf } from './ovf.ts'
import type { Member } from './tar-reader.ts'

/** Bytes of a manifest: some thousand lines. */
const LONGEST_MANIFEST = 1 << 20

/**
 * Checks an appliance: that its archive, its descriptor and its manifest agree, and every digest of the manifest.
 * What keeps programs from importing it is told as a warning. The disks inside are checked by their own formats.
 */
export function* checkAppliance(image: Image, report: CheckReport): Io<void> {
  const { store } = image
  const appliance = yield* readAppliance(store, image.signal)
  checkArchive(appliance, report)
  const { descriptor, manifest } = appliance
  const ovf = descriptor && (yield* attempt(report, () => readDescriptor(image, descriptor)))
  if (ovf) checkReferences(appliance, ovf, report)
  if (manifest) yield* attempt(report, () => checkManifest(image, appliance, manifest, report))
}

function* readDescriptor({ store }: Image, descriptor: Member): Io<Ovf> {
  return readOvf(yield* readMember(store, descriptor, LONGEST_OVF), store.name)
}

/** What a part of an appliance cannot be read for is a finding. */
function* attempt<T>(report: CheckReport, work: () => Io<T>): Io<T | undefined> {
  try {
    return yield* work()
  } catch (error) {
    if (!isVdiskError(error) || ['CANCELLED', 'IO'].includes(error.code)) throw error
    const { structure = 'archive', at } = error.where
    report.add({ code: error.code, severity: 'error', structure, at, message: reasonOf(error) })
    return undefined
  }
}

function checkArchive({ members, descriptor, ended }: Appliance, report: CheckReport): void {
  if (!descriptor) report.add(finding('NO_DESCRIPTOR', 'error', 'It has no OVF descriptor.'))
  else if (members[0] !== descriptor) {
    const message = `The first member is "${members[0]?.name}", and importers want the descriptor "${descriptor.name}" there.`
    report.add({ ...finding('WRONG_ORDER', 'warning', message), at: descriptor.headerAt })
  }
  if (!ended) report.add(finding('NO_END', 'warning', 'The two blocks that end an archive are missing.'))
  const seen = new Set<string>()
  for (const { name, headerAt } of members) {
    if (seen.has(name)) {
      report.add({ ...finding('SAME_NAME', 'error', `Two members are called "${name}".`), at: headerAt })
    }
    seen.add(name)
  }
}

/** Every file that the descriptor names is there, of the size that it says, in its order. */
function checkReferences(appliance: Appliance, { files, disks }: Ovf, report: CheckReport): void {
  let last = 0
  for (const file of files.filter(({ href }) => !/^[a-z][a-z0-9+.-]*:/i.test(href))) {
    const member = memberOf(appliance, file)
    if (!member) {
      if (!file.isChunked) {
        report.add(inOvf('MEMBER_MISSING', 'error', `It names "${file.href}", which is not in the archive.`))
      }
      continue
    }
    if (file.size !== undefined && file.size !== member.length) {
      const message = `It says that "${file.href}" has ${file.size} bytes; it has ${member.length}.`
      report.add({ ...inOvf('WRONG_SIZE', 'error', message), at: member.headerAt })
    }
    if (member.at < last) {
      const message = `"${file.href}" lies before files that are listed before it.`
      report.add({ ...inOvf('WRONG_ORDER', 'warning', message), at: member.headerAt })
    }
    last = Math.max(last, member.at)
  }
  for (const { id, file } of disks) {
    if (!file) report.add(inOvf('DISK_WITHOUT_FILE', 'warning', `The disk "${id}" is in no file.`))
  }
}

function* checkManifest(image: Image, appliance: Appliance, manifest: Member, report: CheckReport): Io<void> {
  const text = Buffer.from(yield* readMember(image.store, manifest, LONGEST_MANIFEST)).toString('utf8')
  const { lines, odd } = parseManifest(text)
  const place = { structure: 'manifest', at: manifest.at }
  for (const number of odd) {
    report.add({ ...place, code: 'ODD_LINE', severity: 'warning', message: `Line ${number} means nothing.` })
  }
  const files = appliance.members.filter(({ kind, name }) => kind === 'file' && !/\.(mf|cert)$/i.test(name))
  for (const { name, headerAt } of files) {
    if (lines.some((line) => line.name === name)) continue
    const message = `It has no digest of "${name}", so nothing proves that it is whole.`
    report.add({ ...place, code: 'NO_DIGEST', severity: 'warning', message, at: headerAt })
  }
  const total = lines.reduce((sum, { name }) => sum + (files.find((file) => file.name === name)?.length ?? 0), 0)
  const pace = new Pace(image.signal)
  let done = 0
  for (const line of lines) {
    const member = files.find(({ name }) => name === line.name)
    if (!member) {
      const message = `It has a digest of "${line.name}", which is not in the archive.`
      report.add({ ...place, code: 'MEMBER_MISSING', severity: 'error', message })
      continue
    }
    yield* checkDigest(image, member, line, report, function* (bytes) {
      done += bytes
      report.advance(done, total)
      yield* pace.keep()
    })
  }
}

function* checkDigest(
  { store }: Image,
  member: Member,
  line: ManifestLine,
  report: CheckReport,
  advance: (bytes: number) => Io<void>,
): Io<void> {
  const digest = yield* digestOf(store, member, line.algorithm, advance)
  if (digest === line.digest) return
  const message = `"${member.name}" is not what it was: its ${line.algorithm} is ${digest}, the manifest says ${line.digest}.`
  report.add({ code: 'WRONG_DIGEST', severity: 'error', structure: 'manifest', at: member.at, message })
}

function finding(code: string, severity: 'error' | 'warning', message: string) {
  return { code, severity, structure: 'archive', message } as const
}

function inOvf(code: string, severity: 'error' | 'warning', message: string) {
  return { code, severity, structure: 'OVF descriptor', message } as const
}
