import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { openDisk } from '../../lib/index.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'

/** More than is unpacked as one piece. */
const SIZE = 65 << 20

const PROGRAMS = [
  ['gzip', ['-1'], '.gz'],
  ['bzip2', ['-1'], '.bz2'],
  ['xz', ['-0'], '.xz'],
  ['zstd', ['-1'], '.zst'],
] as const

for (const [program, options, ending] of PROGRAMS) {
  describeWithPeers([program], `a file that ${program} packed in one piece`, () => {
    test.each(program === 'gzip' ? [`it's a disk.img${ending}`, 'image', `-x${ending}`] : [`a disk.img${ending}`])(
      'called "%s" is unpacked by the command that the refusal names',
      async (name) => {
        const folder = scratchFolder()
        fs.writeFileSync(path.join(folder, 'disk'), Buffer.alloc(SIZE))
        runPeer(program, [...options, 'disk'], { in: folder })
        fs.renameSync(path.join(folder, `disk${ending}`), path.join(folder, name))
        const before = process.cwd()
        process.chdir(folder)
        try {
          const error = await refusal(() => openDisk(name))
          expect(error.code).toBe('UNSUPPORTED')
          const command = /^Unpack it first: (.*)$/.exec(error.advice ?? '')?.[1] ?? 'false'
          expect(spawnSync('bash', ['-c', command]).status).toBe(0)
          const unpacked = name.endsWith(ending) ? name.slice(0, -ending.length) : `${name}.raw`
          expect(fs.statSync(unpacked).size).toBe(SIZE)
          expect(fs.existsSync(name)).toBe(true)
        } finally {
          process.chdir(before)
        }
      },
    )
  })
}
