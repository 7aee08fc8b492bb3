import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { LONGEST_OVF, type Ovf, type OvfFile, readOvf } from './ovf.ts'
import { type Archive, type Member, readArchive } from './tar-reader.ts'

/** An appliance in one file: an archive with a descriptor. [DSP0243 2.1.1, 6.4 "Distribution as a single file"] */
export interface Appliance extends Archive {
  readonly file: string
  /** the member that is the descriptor */
  readonly descriptor: Member | undefined
  readonly manifest: Member | undefined
}

export function* readAppliance(store: ByteStore, signal?: AbortSignal): Io<Appliance> {
  const archive = yield* readArchive(store, signal)
  const ending = (end: string): Member | undefined =>
    archive.members.find(({ name, kind }) => kind === 'file' && name.toLowerCase().endsWith(end))
  return { ...archive, file: store.name, descriptor: ending('.ovf'), manifest: ending('.mf') }
}

/** The descriptor. @throws VdiskError NOT_FOUND where there is none, and what `readOvf` throws */
export function* descriptorOf(store: ByteStore, { file, descriptor }: Appliance): Io<Ovf> {
  if (!descriptor) {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot tell which member of ${file} is a disk: it has no OVF descriptor`,
      where: { file, structure: 'OVF descriptor' },
      advice: `Name the member: ${file}/MEMBER`,
    })
  }
  return readOvf(yield* readMember(store, descriptor, LONGEST_OVF), file)
}

/** @throws VdiskError LIMIT_EXCEEDED for more than `most` bytes, UNSUPPORTED for a sparse member */
export function* readMember(store: ByteStore, member: Member, most: number): Io<Uint8Array> {
  assertPlain(store.name, member)
  if (member.length > most) {
    throw new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot read "${member.name}" in ${store.name}: it has ${member.length} bytes, more than ${most}`,
      where: { file: store.name, at: member.at },
    })
  }
  const bytes = new Uint8Array(member.length)
  yield* settle(store.read(member.at, bytes))
  return bytes
}

/** The member that is meant by a name; undefined as name: the only disk. @throws VdiskError NOT_FOUND, REFUSED, ... */
export function* findDisk(store: ByteStore, appliance: Appliance, name: string | undefined): Io<Member> {
  const member = name === undefined ? yield* onlyDisk(store, appliance) : memberNamed(appliance, name)
  assertPlain(appliance.file, member)
  return member
}

/** @throws VdiskError NOT_FOUND, and CORRUPT where several members have the name */
export function memberNamed({ file, members }: Appliance, name: string): Member {
  const found = members.filter((member) => member.name === name)
  if (found.length === 1) return found[0] as Member
  if (found.length > 1) {
    throw new VdiskError('CORRUPT', {
      message: `Cannot open "${name}" in ${file}: ${found.length} members have that name, and programs differ in which they take`,
      where: { file, structure: 'tar header', at: found[1]?.headerAt },
    })
  }
  const files = members.filter(({ kind }) => kind !== 'other').map((member) => `"${member.name}"`)
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot open "${name}" in ${file}: it has no such member`,
    where: { file },
    advice: `Members: ${files.slice(0, 20).join(', ')}${files.length > 20 ? ', ...' : ''}`,
  })
}

/** The member that a file of the descriptor is. Names may be written as in URLs. */
export function memberOf(appliance: Appliance, { href }: OvfFile): Member | undefined {
  const names = [href, decoded(href)]
  return appliance.members.find(({ name }) => names.includes(name))
}

function* onlyDisk(store: ByteStore, appliance: Appliance): Io<Member> {
  const { file } = appliance
  const ovf = yield* descriptorOf(store, appliance)
  const files = [...new Set(ovf.disks.flatMap((disk) => disk.file ?? []))]
  const [first, ...others] = files
  if (!first) {
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot open ${file}: its OVF descriptor names no disk that has content`,
      where: { file, structure: 'OVF descriptor', section: 'DiskSection' },
    })
  }
  if (others.length > 0) {
    throw new VdiskError('REFUSED', {
      message: `Cannot tell which disk of ${file} is meant: it has ${files.length}`,
      where: { file, structure: 'OVF descriptor', section: 'DiskSection' },
      advice: `Name one: ${files
        .slice(0, 20)
        .map(({ href }) => `${file}/${href}`)
        .join(', ')}`,
    })
  }
  if (first.compression !== undefined || first.isChunked) {
    const how = first.isChunked ? 'in pieces' : `compressed with ${first.compression}`
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot open the disk "${first.href}" of ${file}: it is stored ${how}`,
      where: { file, structure: 'OVF descriptor', section: 'References section' },
      advice: `Unpack the archive first: tar -xf ${file}`,
    })
  }
  const member = memberOf(appliance, first)
  if (member) return memberNamed(appliance, member.name)
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot open the disk of ${file}: its OVF descriptor calls it "${first.href}", and there is no such member`,
    where: { file, structure: 'OVF descriptor', section: 'References section' },
    advice: 'A disk outside of the archive is not looked for. Was the archive cut?',
  })
}

function assertPlain(file: string, { name, kind, headerAt }: Member): void {
  if (kind === 'file') return
  const why = kind === 'sparse' ? 'it is stored without its holes, in a way of GNU tar' : 'it is no file'
  throw new VdiskError('UNSUPPORTED', {
    message: `Cannot open "${name}" in ${file}: ${why}`,
    where: { file, structure: 'tar header', at: headerAt },
    advice: kind === 'sparse' ? `Unpack the archive first: tar -xf ${file}` : undefined,
  })
}

function decoded(href: string): string {
  try {
    return decodeURIComponent(href)
  } catch {
    return href
  }
}
