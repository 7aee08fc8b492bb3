import type { Image } from '../../contracts/image.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { refusal, tooLarge } from './damage.ts'
import { DESCRIPTOR_NAME, Descriptor } from './descriptor.ts'

/** Bytes of a descriptor; real ones have a few thousand. */
const LONGEST = 1 << 20

/** The descriptor that the image's own file is. @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* readDescriptor(image: Image): Io<Descriptor> {
  const length = yield* settle(image.store.size())
  if (length > LONGEST) throw tooLarge(image.name, `it has ${length} bytes`, { structure: DESCRIPTOR_NAME })
  const bytes = new Uint8Array(length)
  yield* settle(image.store.read(0, bytes))
  return Descriptor.parse(image.name, bytes, image.leaveOut)
}

/**
 * A new descriptor takes the place of the old one: after a crash one or the other is there. What it names is durable.
 *
 * @returns the file that has the name now, which the caller closes
 * @throws VdiskError UNSUPPORTED where files cannot be replaced
 */
export function* replaceDescriptor(image: Image, text: string): Io<{ store: ByteStore; descriptor: Descriptor }> {
  const { name } = image
  if (!image.takeOver) throw refusal(name, 'change the descriptor of', 'where it lies files cannot be replaced')
  const bytes = new TextEncoder().encode(text)
  // What is written must be what is read.
  const descriptor = Descriptor.parse(name, bytes, image.leaveOut)
  const beside = `${DESCRIPTOR_NAME}.new`
  yield* image.removeNeighbour?.(beside) ?? []
  const store = yield* image.neighbour(beside, 'create')
  try {
    yield* settle(store.write(0, bytes))
    yield* settle(store.flush())
    yield* image.takeOver(beside)
  } catch (error) {
    yield* settle(store.close())
    yield* image.removeNeighbour?.(beside) ?? []
    throw error
  }
  return { store, descriptor }
}
