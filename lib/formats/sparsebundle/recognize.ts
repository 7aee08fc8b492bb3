import { BUNDLE_TYPE } from './layout.ts'

/** Bytes of a file in which the type of a bundle stands. */
const LOOKED_AT = 4096

/** Whether a file begins as the description of a bundle. */
export function describesBundle(head: Uint8Array): boolean {
  return Buffer.from(head.subarray(0, LOOKED_AT)).toString('latin1').includes(`<string>${BUNDLE_TYPE}</string>`)
}
