import type { FormatDriver } from '../contracts/driver.ts'
import { qcow2 } from './qcow2/driver.ts'
import { raw } from './raw/driver.ts'
import { vdi } from './vdi/driver.ts'
import { vhdx } from './vhdx/driver.ts'
import { vmdk } from './vmdk/driver.ts'

/** All formats. The only file that names them. */
export const drivers: readonly FormatDriver[] = [qcow2, vhdx, vdi, vmdk, raw]
