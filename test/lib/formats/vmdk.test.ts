import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

driverContract(vmdk, {
  variants: [
    { name: 'monolithicSparse, grains of 4 KiB', size: (5 << 20) + 1536, options: { grain_size: '4K' } },
    {
      name: 'monolithicSparse, zeroed grains of 64 KiB',
      size: (3 << 20) + 512,
      options: { zeroed_grain: 'on' },
    },
    {
      name: 'twoGbMaxExtentSparse',
      size: (2 << 20) + 1536,
      options: { subformat: 'twoGbMaxExtentSparse', grain_size: '8K', extent_size: '512K' },
    },
    { name: 'monolithicFlat', size: (1 << 20) + 512, options: { subformat: 'monolithicFlat' }, child: false },
    {
      name: 'twoGbMaxExtentFlat',
      size: (1 << 20) + 512,
      options: { subformat: 'twoGbMaxExtentFlat', extent_size: '300K' },
      child: false,
    },
  ],
})
