import type { Io } from '../io/io.ts'
import type { FileStamp } from '../io/store.ts'
import { guardName, isOf, isVoid, type Overtaken } from './guard.ts'
import type { Range } from './recorder.ts'
import type { Facts } from './superblock.ts'

/** A disk as a sidecar must find it again. */
export interface Subject {
  /** bytes */
  readonly size: number
  /** the image's file */
  readonly stamp: FileStamp | undefined
  /** digest of who the content is; all zero: nothing tells */
  readonly content: Uint8Array
  /** the same once something was written; all zero if nothing tells */
  readonly next: Uint8Array
  /** whoever writes to a file of this format changes the identity of its content: it is in the format's rules */
  readonly noticesWriters: boolean
  /** undefined: nobody has written to it but us, or nothing tells who it was */
  readonly overtaken?: Overtaken | undefined
}

/** What can be said of changes made since the sidecar was last written. */
export type Bond =
  /** there were none */
  | { readonly kind: 'same' }
  /** they are ours, and in the regions that the intents name */
  | { readonly kind: 'interrupted' }
  /** others made some, and these are they; ours are in the regions that the intents name */
  | { readonly kind: 'guarded'; readonly changed: Iterable<Range> }
  /** nobody knows */
  | { readonly kind: 'broken'; readonly why: string }

/** Whether a sidecar, with what the guard of the image says, tells all that happened to the disk that it is found beside. */
export function* bondOf(facts: Facts, subject: Subject, own: FileStamp | undefined): Io<Bond> {
  const bond = bondByRecord(facts, subject, own)
  const { guard } = facts
  if (bond.kind !== 'overtaken') return bond
  if (!guard) return broken(bond.why)
  const unguarded = (why: string): Bond => broken(`${bond.why}, and ${guardName(guard)} does not tell what: ${why}`)
  const { overtaken, size } = subject
  if (isVoid(guard)) return unguarded('it was not begun')
  if (!overtaken) return unguarded('the program did not keep to the format')
  if (!isOf(guard, overtaken.content)) return unguarded('it was begun with another content')
  if (size < guard.size) return unguarded('the disk was cut off')
  const changed = yield* overtaken.changed(guard)
  return typeof changed === 'string' ? unguarded(changed) : { kind: 'guarded', changed }
}

/** What the sidecar says by itself. */
function bondByRecord(
  facts: Facts,
  subject: Subject,
  own: FileStamp | undefined,
): Bond | { readonly kind: 'overtaken'; readonly why: string } {
  const { stamp } = subject
  if (!stamp || !own) return broken('its file has no times by which it could be known again')
  if (own.inode !== facts.own.inode || own.born !== facts.own.born) {
    return broken('the record of changes is a copy, or was brought back from one')
  }
  if (facts.state === 'lost' || facts.state === 'moved') return broken(facts.reason)
  if (facts.stamp && (stamp.inode !== facts.stamp.inode || stamp.born !== facts.stamp.born)) {
    return broken('the image is another file than the one that was tracked')
  }
  const untouched = facts.stamp !== undefined && isSame(stamp, facts.stamp) && isEqual(subject.content, facts.content)
  if (facts.state === 'clean') {
    if (untouched && subject.size === facts.diskSize) return { kind: 'same' }
    return { kind: 'overtaken', why: 'another program wrote to the image' }
  }
  const isOurs = isEqual(subject.content, facts.content) || isEqual(subject.content, facts.next)
  if (untouched || (subject.noticesWriters && isOurs && isKnown(subject.content))) return { kind: 'interrupted' }
  const why = subject.noticesWriters
    ? 'its writer was cut short, and then another program wrote to the image'
    : 'its writer was cut short, and the format does not tell whether another program wrote to the image since'
  return { kind: 'overtaken', why }
}

function isSame(a: FileStamp, b: FileStamp): boolean {
  return a.size === b.size && a.modified === b.modified && (a.changed ?? 0n) === (b.changed ?? 0n)
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

function isKnown(digest: Uint8Array): boolean {
  return digest.some((byte) => byte !== 0)
}

function broken(why: string): Bond {
  return { kind: 'broken', why }
}
