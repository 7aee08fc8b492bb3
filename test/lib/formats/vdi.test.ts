import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

driverContract(vdi, {
  variants: [
    { name: 'blocks of 1 MiB', size: (5 << 20) + 1536 },
    { name: 'blocks of 4 KiB', size: (64 << 10) + 512, options: { block_size: '4K' } },
    { name: 'static', size: (3 << 20) + 512, options: { static: 'on' }, child: false },
  ],
})
