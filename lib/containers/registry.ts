import type { Container } from '../contracts/container.ts'
import { gzip } from './gzip.ts'
import { ova } from './ova/container.ts'
import { zstd } from './zstd.ts'

/** All containers. The only file that names them. */
export const containers: readonly Container[] = [gzip, zstd, ova]
