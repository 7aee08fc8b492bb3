import { createHash } from 'node:crypto'
import type { Chain } from '../chain/chain.ts'
import { stampOf } from '../chain/linkage.ts'
import { driverNamed } from '../chain/probe.ts'
import type { Identity } from '../contracts/identity.ts'
import type { Layer } from '../contracts/layer.ts'
import { drivers } from '../formats/registry.ts'

/** Who the content below the top layer is. Nobody may write to a parent while its child is open, so it stays. */
export function wordsOfParents({ layers }: Pick<Chain, 'layers'>): readonly string[] {
  return layers.slice(0, -1).map((layer) => `${layer.format} ${wordOf(layer.identity)} ${stampWord(layer)}\n`)
}

/** Who the content of a disk is: all layers. All zero for a single one that has no identity. */
export function contentOf(parents: readonly string[], top: Layer, identity: Identity | undefined): Uint8Array {
  if (!identity?.current && parents.length === 0) return new Uint8Array(32)
  return createHash('sha256')
    .update([...parents, `${top.format} ${wordOf(identity)}\n`].join(''))
    .digest()
}

function wordOf(identity: Identity | undefined): string {
  return identity ? `${identity.kind} ${identity.value} ${identity.current}` : 'none'
}

/**
 * The file of a parent must be as it was. Where the identity tells of everybody who writes it may have been moved or linked; but
 * its content must have the same time, for QEMU merges into an image without a word to whoever it does not know.
 */
function stampWord(layer: Layer): string {
  const { size, modified, changed } = stampOf(layer) ?? {}
  return noticesWriters(layer) ? `${size} ${modified}` : `${size} ${modified} ${changed}`
}

/** Whether the identity of a layer tells of everybody who wrote to it. */
export function noticesWriters({ format, identity, name }: Layer): boolean {
  return identity?.current === true && !identity.weak && driverNamed(format, drivers, name).noticesWriters === true
}
