import { roundUp } from '../../bytes/align.ts'
import type { ContainerWriter, Packing } from '../../contracts/container.ts'
import { CreateOptions } from '../../contracts/create-options.ts'
import type { CreateOption } from '../../contracts/driver.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { digestOf, digestOfBytes } from './digest.ts'
import { formatManifest } from './manifest.ts'
import { formatOvf, type Machine } from './ovf-writer.ts'
import { BLOCK } from './tar-layout.ts'
import { END_OF_ARCHIVE, tarHeaderOf } from './tar-writer.ts'

const createOptions: readonly CreateOption[] = [
  { name: 'name', values: 'text', initial: undefined, help: 'of the machine; default: that of the file' },
  { name: 'cpus', values: 'text', initial: '2', help: 'virtual CPUs' },
  { name: 'memory', values: 'size', initial: '2G', help: 'memory of the machine' },
  { name: 'firmware', values: ['bios', 'efi'], initial: 'bios', help: 'what the machine boots with' },
  { name: 'controller', values: ['lsilogic', 'pvscsi'], initial: 'lsilogic', help: 'what the disk is attached to' },
]

/** More digits than any size has: the descriptor with this size is as long as any. */
const LONGEST_SIZE = Number.MAX_SAFE_INTEGER
const MIB = 1 << 20
/** What ESXi gives one machine. */
const MOST_PROCESSORS = 768
/** Characters of a name, so that it fits into a header with what is put behind it. */
const LONGEST_STEM = 80
const ALGORITHM = 'SHA256'

/**
 * Writes an appliance around a disk: descriptor, manifest, disk, in this order, which lets importers check what streams by.
 * [DSP0243 2.1.1, 6.4 "Distribution as a single file"]
 *
 * Descriptor and manifest tell the disk's length and digest, and stand before it. So they get room of a fixed length; what
 * the descriptor does not need of it are line ends behind its last tag.
 */
class ApplianceWriter implements ContainerWriter {
  private readonly machine: Omit<Machine, 'disk'>
  private readonly capacity: number
  private readonly stem: string
  private readonly descriptorLength: number
  private readonly manifestLength: number

  /**
   * @param file path of the archive; the names inside are made from its last part
   * @param capacity bytes of the disk that the guest sees
   * @throws VdiskError REFUSED for options that are none
   */
  constructor(file: string, capacity: number, given: ReadonlyMap<string, string>) {
    const options = new CreateOptions(file, 'ova', createOptions, given)
    this.stem = stemOf(file)
    this.machine = machineOf(options, this.stem)
    this.capacity = capacity
    this.descriptorLength = Buffer.byteLength(this.descriptor(LONGEST_SIZE), 'utf8')
    this.manifestLength = Buffer.byteLength(this.manifest('0'.repeat(64), '0'.repeat(64)), 'utf8')
  }

  /** Byte of the archive at which the disk's image begins. */
  get imageAt(): number {
    return 3 * BLOCK + roundUp(this.descriptorLength, BLOCK) + roundUp(this.manifestLength, BLOCK)
  }

  /** Name of the member that the disk's image is. */
  get imageName(): string {
    return `${this.stem}-disk1.vmdk`
  }

  /**
   * Writes all but the disk, and ends the archive. What is written there before is not looked at.
   *
   * @param store the archive, whose last bytes are the disk's image
   * @param modified seconds since 1970
   */
  *finish(store: ByteStore, modified: number, signal?: AbortSignal): Io<void> {
    const end = yield* settle(store.size())
    const length = end - this.imageAt
    const pace = new Pace(signal)
    const disk = yield* digestOf(store, { at: this.imageAt, length }, ALGORITHM, function* () {
      yield* pace.keep()
    })
    const descriptor = Buffer.alloc(this.descriptorLength, '\n')
    descriptor.write(this.descriptor(length), 'utf8')
    const manifest = Buffer.from(this.manifest(digestOfBytes(descriptor, ALGORITHM), disk), 'utf8')
    yield* settle(
      store.write(
        0,
        Buffer.concat([
          tarHeaderOf(`${this.stem}.ovf`, descriptor.length, modified),
          padded(descriptor),
          tarHeaderOf(`${this.stem}.mf`, manifest.length, modified),
          padded(manifest),
          tarHeaderOf(this.imageName, length, modified),
        ]),
      ),
    )
    yield* settle(store.grow(roundUp(end, BLOCK) + END_OF_ARCHIVE))
  }

  private descriptor(fileSize: number): string {
    return formatOvf({ ...this.machine, disk: { href: this.imageName, fileSize, capacity: this.capacity } })
  }

  private manifest(descriptor: string, disk: string): string {
    return formatManifest([
      { algorithm: ALGORITHM, name: `${this.stem}.ovf`, digest: descriptor },
      { algorithm: ALGORITHM, name: this.imageName, digest: disk },
    ])
  }
}

/** An appliance with one disk, strict enough for importers that are. */
export const ovaPacking: Packing = {
  name: 'ova',
  createOptions,
  format: 'vmdk',
  formatOptions: { subformat: 'streamOptimized', adapter_type: 'lsilogic' },
  begin: (file, size, options) => new ApplianceWriter(file, size, options),
}

/** The last part of a path without its ending, in characters that every importer takes. */
function stemOf(file: string): string {
  const last = file.split(/[\\/]/).at(-1) as string
  const stem = last
    .replace(/\.ova$/i, '')
    .replace(/[^A-Za-z0-9._-]/g, '_')
    .replace(/^\.+/, '')
  return stem.slice(0, LONGEST_STEM) || 'disk'
}

function machineOf(options: CreateOptions, stem: string): Omit<Machine, 'disk'> {
  const name = options.has('name') ? options.text('name') : stem
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (name.trim() === '' || name.length > 80 || /[\u0000-\u001f\u007f]/.test(name)) {
    options.refuse('name has no characters, more than 80, or control characters')
  }
  const processors = /^\d{1,3}$/.test(options.text('cpus')) ? Number(options.text('cpus')) : 0
  if (processors < 1 || processors > MOST_PROCESSORS) {
    options.refuse(`cpus cannot be "${options.text('cpus')}"`, `Give a whole number from 1 to ${MOST_PROCESSORS}.`)
  }
  const memory = options.size('memory')
  if (memory < 4 * MIB || memory % (4 * MIB) !== 0) {
    options.refuse(`memory cannot be ${options.text('memory')}`, 'Give a multiple of 4M.')
  }
  return {
    name,
    processors,
    memory: memory / MIB,
    firmware: options.text('firmware') as Machine['firmware'],
    controller: options.text('controller') as Machine['controller'],
  }
}

function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(roundUp(bytes.length, BLOCK))
  whole.set(bytes)
  return whole
}
