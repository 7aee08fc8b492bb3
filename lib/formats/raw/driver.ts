import { CreateOptions } from '../../contracts/create-options.ts'
import type { Access, CreateShape, FormatDriver } from '../../contracts/driver.ts'
import type { Image } from '../../contracts/image.ts'
import type { WritableLayer } from '../../contracts/layer.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { writeZeros } from '../../io/zeros.ts'
import { openRawLayer } from './layer.ts'

/** Raw images: the bytes of the disk, in order. Holes in the file are zeros of the disk. */
export const raw: FormatDriver = {
  name: 'raw',
  extensions: ['.raw', '.img', '.dd', '.bin'],
  supports: {
    write: true,
    create: true,
    parent: false,
    erase: true,
    snapshots: false,
    bitmaps: false,
    compression: [],
    sizeUnit: 1,
    maxSize: Number.MAX_SAFE_INTEGER,
  },
  createOptions: [
    {
      name: 'preallocation',
      values: ['off', 'falloc', 'full'],
      initial: 'off',
      help: 'off: a sparse file; falloc: room is reserved; full: zeros are written',
    },
  ],

  // Any content may be raw; so raw is what remains when no other format recognizes it.
  probe: () => 'perhaps',

  *open(image: Image, access: Access) {
    return yield* openRawLayer(image, access === 'write')
  },

  *create(image: Image, shape: CreateShape): Io<WritableLayer> {
    const options = new CreateOptions(image.name, 'raw', raw.createOptions, shape.options)
    if (shape.parent) options.refuse('a raw image has no place for a parent', 'Choose qcow2 or vhdx for a child.')
    const { store } = image
    yield* settle(store.truncate(shape.size))
    if (options.text('preallocation') === 'falloc') yield* settle(store.allocate?.(0, shape.size))
    if (options.text('preallocation') === 'full') {
      yield* writeZeros(store, 0, shape.size, new Pace(image.signal))
    }
    yield* settle(store.flush())
    return (yield* openRawLayer(image, true)) as WritableLayer
  },

  checks: false,
  *check() {},
}
