import { type Image, imageWith } from '../../../contracts/image.ts'
import type { VdiskError } from '../../../errors.ts'

/** An image for readers that get over damage, and note it. Who does not know what a file is about cannot mend it. */
export function tolerant(image: Image, note: (damage: VdiskError) => void = () => {}): Image {
  const leaveOut = (damage: VdiskError): void => {
    if (damage.code === 'UNSUPPORTED') throw damage
    note(damage)
  }
  return imageWith(image, { leaveOut })
}
