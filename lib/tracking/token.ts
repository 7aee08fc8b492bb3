import { crc32 } from '../bytes/crc32.ts'
import { VdiskError } from '../errors.ts'

/** A moment of a tracked disk, for whoever asks later what has changed since. */
export interface Token {
  readonly trackId: string
  /** everything that changed up to and in this epoch was there at that moment */
  readonly epoch: number
  /** bytes that the disk had */
  readonly size: number
}

const FORM = /^vdisk1-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(\d{1,10})-(\d{1,16})-([0-9a-f]{8})$/

/** As text, which the programs keep that ask. */
export function formatToken({ trackId, epoch, size }: Token): string {
  const text = `vdisk1-${trackId}-${epoch}-${size}`
  return `${text}-${checksum(text)}`
}

/** @throws VdiskError REFUSED for what is no token, or was cut or mistyped */
export function parseToken(text: string): Token {
  const [, trackId, epoch, size, sum] = FORM.exec(text.trim()) ?? []
  if (trackId !== undefined && checksum(text.trim().slice(0, -9)) === sum) {
    return { trackId, epoch: Number(epoch), size: Number(size) }
  }
  throw new VdiskError('REFUSED', {
    message: `Cannot use ${JSON.stringify(text.slice(0, 100))}: it is no token of a tracked disk`,
    advice: 'Give it as "vdisk track checkpoint" printed it; without one, all of the disk counts as changed.',
  })
}

function checksum(text: string): string {
  return crc32(new TextEncoder().encode(text)).toString(16).padStart(8, '0')
}
