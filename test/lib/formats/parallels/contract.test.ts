import { parallels } from '../../../../lib/formats/parallels/driver.ts'
import { driverContract } from '../../../contract/driver-contract.ts'

driverContract(parallels, {
  variants: [
    { name: 'clusters of 4 KiB', size: 300 * 512, options: { cluster_size: '4K' } },
    { name: 'clusters of 512 bytes', size: 200 << 10, options: { cluster_size: '512' } },
    { name: 'clusters of 63 sectors', size: 1 << 20, options: { cluster_size: '32256', magic: 'classic' } },
    { name: 'clusters of 1 MiB', size: (5 << 20) + 1536, crashes: false },
    { name: 'classic', size: 1 << 20, options: { cluster_size: '64K', magic: 'classic' } },
  ],
})
