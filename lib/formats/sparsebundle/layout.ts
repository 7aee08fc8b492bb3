/**
 * Apple's .sparsebundle folders: a description, and the disk in bands, each a file of its own. There is no document of
 * Apple's; names are those of the files.
 */

/** The file of the folder that describes it, a property list. */
export const DESCRIPTION = 'Info.plist'
export const BUNDLE_TYPE = 'com.apple.diskimage.sparsebundle'
/** Keys of the description. */
export const KEY = { type: 'diskimage-bundle-type', bandSize: 'band-size', size: 'size' } as const
/** Holds the header of an encrypted bundle; else it is empty. */
export const TOKEN = 'token'
export const ENCRYPTED = 'encrcdsa'

export const SECTOR = 512
export const LIMIT = {
  /** bytes of a description */
  descriptionBytes: 64 << 10,
  bandBytes: 2 ** 40,
  diskBytes: 2 ** 53 - SECTOR,
} as const

/** What a bundle says of its disk, in bytes. */
export interface Description {
  readonly bandSize: number
  readonly size: number
}

/** The name of a band's file, in the folder. It may be shorter than a band, or not there: the rest is zeros. */
export function fileOfBand(band: number): string {
  return `bands/${band.toString(16)}`
}
