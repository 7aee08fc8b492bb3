import { namedGuid } from '../bytes/guid.ts'
import type { Identity, NewParent, ParentRecord } from './identity.ts'

/**
 * What a format writes where it must name its parent by an id of its own kind, and the parent has none: a GUID made of what
 * is known. The same parent, unchanged, always gives the same one; so a child that has lost its linkage record is known
 * to belong to it all the same.
 */
export function standInGuid({ identity, record }: Pick<NewParent, 'identity' | 'record'>): string {
  return identity ? standInForIdentity(identity) : standInForSample(record)
}

/** As `standInGuid`, for formats that know content by 32 bits; never 0, nor all ones, which say that there is no parent. */
export function standInCid(parent: Pick<NewParent, 'identity' | 'record'>): number {
  return cidOf(standInGuid(parent))
}

/** Whether an expected id is what stands for a parent: of that identity, or without one and of that size and sample. */
export function isStandIn(
  expected: Identity,
  identity: Identity | undefined,
  record: ParentRecord | undefined,
): boolean {
  if (!identity && record?.sample === undefined) return false
  const guid = identity ? standInForIdentity(identity) : standInForSample(record as ParentRecord)
  if (expected.kind === 'cid') return Number.parseInt(expected.value, 16) === cidOf(guid)
  // Where a format knows the disk and its state by a GUID each, it stands for both.
  return expected.value === guid || expected.value === `${guid}/${guid}`
}

/** The stand-in for a parent that has an identity, if of another kind. */
export function standInForIdentity({ kind, value }: Identity): string {
  return namedGuid(`${kind} ${value}`)
}

function standInForSample({ size, sample }: ParentRecord): string {
  return namedGuid(`sample ${size} ${sample ?? ''}`)
}

function cidOf(guid: string): number {
  const cid = Number.parseInt(guid.slice(0, 8), 16)
  return cid === 0 || cid === 0xffffffff ? 1 : cid
}
