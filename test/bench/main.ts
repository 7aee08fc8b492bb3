import { changes } from './changes.ts'
import { engine } from './engine.ts'
import { conversions, reads } from './formats.ts'
import { hasPeer, printTable, rows } from './harness.ts'
import { check, convert, info, large, merge } from './tools.ts'
import { firstWrites } from './writes.ts'

const BENCHES: Record<string, { run: () => Promise<void>; peer?: string }> = {
  engine: { run: engine },
  writes: { run: firstWrites },
  info: { run: info },
  large: { run: large },
  changes: { run: changes },
  convert: { run: convert, peer: 'qemu-img' },
  conversions: { run: conversions, peer: 'qemu-img' },
  reads: { run: reads, peer: 'qemu-img' },
  merge: { run: merge, peer: 'qemu-img' },
  check: { run: check, peer: 'qemu-img' },
}

const wanted = process.argv.slice(2)
for (const [name, { run, peer }] of Object.entries(BENCHES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  if (peer && !hasPeer(peer)) console.log(`skipped  ${name}: ${peer} is not installed (apt-get install qemu-utils)`)
  else await run()
}
printTable()
process.exitCode = rows.every(({ reached }) => reached) ? 0 : 1
