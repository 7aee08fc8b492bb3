import { MemoryStore } from '../../lib/io/memory.ts'
import { applianceOf, ovfOf, paxOf, tarOf } from '../support/appliances.ts'
import { packableDisk } from '../support/packed-disks.ts'
import { Random } from '../support/random.ts'
import { streamOf } from '../support/vmdk-stream.ts'
import { ovaAnatomy } from './ova-anatomy.ts'
import { only, type Seed } from './seeds.ts'
import { MAIN } from './subject.ts'

/** Appliances with one disk, which is opened, and with what archives can have besides. */
export function ovaSeeds(): Seed[] {
  const random = new Random(14)
  const disk = packableDisk(random, 40_960)
  const stream = streamOf({
    capacity: 1024,
    grains: new Map([
      [0, disk],
      [3, random.bytes(65_536)],
    ]),
  }).bytes
  const long = `${'long/'.repeat(30)}disk.raw`
  const ovf = ovfOf([{ name: long, size: disk.length, capacity: disk.length }])
  const seeds: Readonly<Record<string, Uint8Array>> = {
    'a raw disk': applianceOf([{ name: 'disk.raw', content: disk }], [{ name: 'folder', type: '5' }]),
    'a stream': applianceOf([{ name: 'disk.vmdk', content: stream }]),
    'long names': tarOf([
      { name: 'global', type: 'g', content: paxOf({ comment: 'of all' }) },
      { name: 'machine.ovf', content: ovf },
      { name: 'pax', type: 'x', content: paxOf({ path: long, size: String(disk.length) }) },
      { name: 'short', content: disk },
      { name: 'longname', type: 'L', content: `${'other/'.repeat(30)}x\0` },
      { name: 'short', content: 'nothing', magic: 'ustar  ' },
    ]),
  }
  return Object.entries(seeds).map(([name, content]) => {
    return { name, format: 'ova' as const, files: only(new MemoryStore(MAIN, { content })), anatomy: ovaAnatomy }
  })
}
