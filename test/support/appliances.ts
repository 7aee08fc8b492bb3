import { createHash } from 'node:crypto'

/** A member of an archive to be made. */
export interface Entry {
  readonly name: string
  readonly content?: Uint8Array | string
  /** the character of the type field, default '0' */
  readonly type?: string
  /** what the header says of the size, default the truth */
  readonly size?: number | Uint8Array
  readonly prefix?: string
  /** default: that of POSIX */
  readonly magic?: string
}

/** An archive, made without our own writer. @param end bytes of zeros behind the last member */
export function tarOf(entries: readonly Entry[], end = 1024): Buffer {
  const parts = entries.flatMap((entry) => {
    const content = Buffer.from(entry.content ?? '')
    return [headerOf(entry, content.length), content, Buffer.alloc(-content.length & 511)]
  })
  return Buffer.concat([...parts, Buffer.alloc(end)])
}

function headerOf({ name, type = '0', size, prefix = '', magic = 'ustar\0' }: Entry, length: number): Buffer {
  const header = Buffer.alloc(512)
  header.write(name, 0, 100)
  header.write('0000644\0', 100)
  if (size instanceof Uint8Array) header.set(size, 124)
  else header.write(`${(size ?? length).toString(8).padStart(11, '0')}\0`, 124)
  header.write('00000000000\0', 136)
  header.write(type, 156, 'latin1')
  header.write(magic, 257, 'latin1')
  header.write('00', 263)
  header.write(prefix, 345, 155)
  header.fill(' ', 148, 156)
  const sum = header.reduce((all, byte) => all + byte, 0)
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return header
}

/** Records of a pax header. */
export function paxOf(records: Readonly<Record<string, string>>): string {
  return Object.entries(records)
    .map(([key, value]) => {
      const rest = Buffer.byteLength(` ${key}=${value}\n`)
      let length = rest
      while (length !== rest + String(length).length) length = rest + String(length).length
      return `${length} ${key}=${value}\n`
    })
    .join('')
}

/** A descriptor that names these disks. */
export function ovfOf(disks: readonly { name: string; size: number; capacity: number; more?: string }[]): string {
  const files = disks.map(
    ({ name, size, more = '' }, index) => `<File ovf:href="${name}" ovf:id="file${index}" ovf:size="${size}" ${more}/>`,
  )
  const list = disks.map(
    ({ capacity }, index) => `<Disk ovf:capacity="${capacity}" ovf:diskId="d${index}" ovf:fileRef="file${index}"/>`,
  )
  return `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>${files.join('')}</References>
  <DiskSection><Info>Disks</Info>${list.join('')}</DiskSection>
</Envelope>`
}

export interface Disk {
  readonly name: string
  readonly content: Uint8Array
}

/** An appliance with raw disks: descriptor, manifest, disks. */
export function applianceOf(disks: readonly Disk[], more: readonly Entry[] = []): Buffer {
  const ovf = ovfOf(disks.map(({ name, content }) => ({ name, size: content.length, capacity: content.length })))
  const lines = [{ name: 'machine.ovf', content: Buffer.from(ovf) }, ...disks].map(
    ({ name, content }) => `SHA256(${name})= ${createHash('sha256').update(content).digest('hex')}\n`,
  )
  return tarOf([
    { name: 'machine.ovf', content: ovf },
    { name: 'machine.mf', content: lines.join('') },
    ...disks,
    ...more,
  ])
}
