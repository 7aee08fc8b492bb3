import { raw } from '../../../lib/formats/raw/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

driverContract(raw, {
  variants: [
    { name: 'plain', size: 300_001 },
    { name: 'with holes', size: 2 << 20 },
  ],
})
