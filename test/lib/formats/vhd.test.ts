import { vhd } from '../../../lib/formats/vhd/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

const KIB = 1024

driverContract(vhd, {
  variants: [
    { name: 'blocks of 4 KiB', options: { block_size: '4K' }, size: 100 * KIB + 1536 },
    { name: 'blocks of 64 KiB', options: { block_size: '64K' }, size: 600 * KIB },
    { name: 'blocks of 4 MiB', options: { block_size: '4M' }, size: 9 * 1024 * KIB + 512, crashes: false },
    { name: 'fixed', options: { subformat: 'fixed' }, size: 100 * KIB + 512, child: false },
  ],
})
