import { raw } from '../../../lib/formats/raw/driver.ts'
import { driverContract } from '../../contract/driver-contract.ts'

driverContract(raw, { variants: [{ name: 'plain', size: 300_001 }] })
