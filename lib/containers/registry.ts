import type { Container } from '../contracts/container.ts'
import { bzip2 } from './bzip2.ts'
import { gzip } from './gzip.ts'
import { ova } from './ova/container.ts'
import { xz } from './xz.ts'
import { zstd } from './zstd.ts'

/** All containers. The only file that names them. */
export const containers: readonly Container[] = [gzip, bzip2, xz, zstd, ova]
