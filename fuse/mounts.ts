import { isOurs, readMountTable } from './doors/mount-table.ts'
import type { Fault } from './fault.ts'
import { type FilesystemNote, readNotes, type ShownFilesystem } from './filesystems/filesystem-notes.ts'
import { isServed, type MountedImage, type MountRecord, readRecords } from './records.ts'

export interface MountStatus {
  readonly mountpoint: string
  /** of mounts of others nothing is known but what the system lists */
  readonly images: readonly (MountedImage | ListedImage)[]
  /**
   * detached: unmounted while in use, it serves those who were inside. closing: making things durable. failed: ended
   * with an error. dead: its server has ended, the mount may still be there. unknown: a mount of another user.
   */
  readonly state: 'serving' | 'detached' | 'closing' | 'failed' | 'dead' | 'unknown'
  readonly pid: number | undefined
  /** ISO 8601 */
  readonly started: string | undefined
  readonly log: string | undefined
  readonly fault: Fault | undefined
  /** what to do where something is wrong */
  readonly advice: string | undefined
  /** what is to be seen there, where it is not the disk */
  readonly filesystem?: ShownFilesystem | undefined
}

/** What the system's list of mounts tells. */
export interface ListedImage {
  readonly image: string
  readonly readOnly: boolean
  readonly disk?: undefined
  readonly mode?: undefined
  readonly overlay?: undefined
}

/** The mounts of this user, and those of others as far as the system shows them. */
export function listMounts(): MountStatus[] {
  const mounted = new Map(
    readMountTable()
      .filter(isOurs)
      .map((entry) => [entry.mountpoint, entry]),
  )
  const ours = readRecords().map((record): MountStatus => {
    const state = stateOf(record, mounted.delete(record.mountpoint))
    const { mountpoint, pid, started, log, fault } = record
    const images = record.images.map(withoutFiles)
    return { mountpoint, images, state, pid, started, log, fault, advice: adviceOn(state, mountpoint) }
  })
  const others = [...mounted.values()].map(({ mountpoint, source, readOnly }): MountStatus => {
    const unknown = { pid: undefined, started: undefined, log: undefined, fault: undefined, advice: undefined }
    return { mountpoint, images: [{ image: source, readOnly }], state: 'unknown', ...unknown }
  })
  return withFilesystems([...ours, ...others])
}

/** Where a file system is shown, people know its place, and not the one where its disk is hidden. */
function withFilesystems(mounts: readonly MountStatus[]): MountStatus[] {
  const notes = readNotes()
  const shown = mounts.map((mount): MountStatus => {
    const note = notes.find(({ disk }) => disk === mount.mountpoint)
    if (!note) return mount
    return { ...mount, mountpoint: note.at, filesystem: note.filesystem, advice: adviceOn(mount.state, note.at) }
  })
  const left = notes.filter(({ disk }) => !mounts.some(({ mountpoint }) => mountpoint === disk))
  return [...shown, ...left.map(leftover)]
}

/** What a command that was cut short has left, or somebody who unmounted the disk by other means. */
function leftover({ at, images, filesystem }: FilesystemNote): MountStatus {
  const unknown = { pid: undefined, started: undefined, log: undefined, fault: undefined }
  const listed = images.map((image) => ({ image, readOnly: false }))
  return { mountpoint: at, images: listed, state: 'dead', ...unknown, advice: adviceOn('dead', at), filesystem }
}

function adviceOn(state: MountStatus['state'], mountpoint: string): string | undefined {
  if (state === 'dead') return `Its server has died. Clear it away with: vdisk unmount ${mountpoint}`
  if (state === 'failed') return `What was written last may be lost. To have read that: vdisk unmount ${mountpoint}`
  if (state === 'detached') return 'It ends when the last program that uses it does.'
  return undefined
}

function stateOf(record: MountRecord, mounted: boolean): MountStatus['state'] {
  if (!isServed(record)) return record.state === 'failed' ? 'failed' : 'dead'
  if (record.state !== 'serving') return 'closing'
  return mounted ? 'serving' : 'detached'
}

function withoutFiles({ image, disk, mode, readOnly, overlay }: MountedImage): MountedImage {
  return { image, disk, mode, readOnly, overlay }
}
