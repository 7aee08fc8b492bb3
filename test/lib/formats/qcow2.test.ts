import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

driverContract(qcow2, {
  variants: [
    { name: 'clusters of 64 KiB', size: 3 << 20 },
    { name: 'clusters of 512 bytes', size: 200 << 10, options: { cluster_size: '512' } },
    { name: 'version 2, clusters of 4 KiB', size: 1 << 20, options: { compat: '0.10', cluster_size: '4K' } },
    { name: 'extended L2 entries', size: 1 << 20, options: { extended_l2: 'on', cluster_size: '16K' } },
    { name: 'counts of 1 bit', size: 1 << 20, options: { refcount_bits: '1', cluster_size: '1K' } },
    { name: 'counts of 64 bits', size: 1 << 20, options: { refcount_bits: '64', cluster_size: '512' } },
    { name: 'clusters of 2 MiB', size: 9 << 20, options: { cluster_size: '2M' }, crashes: false },
    {
      name: 'preallocated metadata',
      size: 1 << 20,
      options: { preallocation: 'metadata', cluster_size: '8K' },
      child: false,
    },
  ],
})
