import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

driverContract(vhdx, {
  variants: [
    { name: 'blocks of 1 MiB', size: (5 << 20) + 1536, options: { block_size: '1M' } },
    {
      name: 'sectors of 4096 bytes',
      size: (3 << 20) + 8192,
      options: { block_size: '1M', logical_sector_size: '4096' },
      sizeUnit: 4096,
    },
    { name: 'fixed', size: (3 << 20) + 512, options: { block_size: '1M', subformat: 'fixed' }, child: false },
    {
      name: 'blocks of 2 MiB, marked as zero',
      size: 5 << 20,
      options: { block_size: '2M', block_state_zero: 'on' },
      child: false,
    },
  ],
})
