import type { FormatDriver } from '../contracts/driver.ts'
import { asif } from './asif/driver.ts'
import { bochs } from './bochs/driver.ts'
import { cloop } from './cloop/driver.ts'
import { dmg } from './dmg/driver.ts'
import { parallels } from './parallels/driver.ts'
import { qcow } from './qcow/driver.ts'
import { qcow2 } from './qcow2/driver.ts'
import { qed } from './qed/driver.ts'
import { raw } from './raw/driver.ts'
import { sparsebundle } from './sparsebundle/driver.ts'
import { sparseimage } from './sparseimage/driver.ts'
import { vdi } from './vdi/driver.ts'
import { vhd } from './vhd/driver.ts'
import { vhdx } from './vhdx/driver.ts'
import { vmdk } from './vmdk/driver.ts'

/** All formats. The only file that names them. */
export const drivers: readonly FormatDriver[] = [
  qcow2,
  vhdx,
  vhd,
  vdi,
  vmdk,
  parallels,
  qcow,
  qed,
  bochs,
  cloop,
  dmg,
  sparseimage,
  sparsebundle,
  asif,
  raw,
]
