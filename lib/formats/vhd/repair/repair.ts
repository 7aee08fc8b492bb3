import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import type { Io } from '../../../io/io.ts'

export function* repairVhd(_image: Image, _report: RepairReport): Io<void> {}
