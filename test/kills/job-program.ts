import fs from 'node:fs'
import process from 'node:process'
import { JOBS } from '../faults/all-jobs.ts'
import type { Watch } from '../faults/scripted-job.ts'
import { HostFolder } from './host-folder.ts'

/**
 * A process that does one scripted job in a folder of this machine: the program that is killed. What it asks of a disk,
 * and what it was promised, it tells through descriptor 3, a line each: so the one who reads it knows it for sure.
 */
const REPORT = 3

const [name, folder] = process.argv.slice(2)
const job = JOBS.find((one) => one.name === name)
if (!job || folder === undefined) throw new Error(`there is no job "${name}"`)

function tell(what: object): void {
  const line = Buffer.from(`${JSON.stringify(what)}\n`)
  for (let done = 0; done < line.length; ) {
    try {
      done += fs.writevSync(REPORT, [line.subarray(done)])
    } catch (error) {
      // A full pipe: whoever reads it will.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
    }
  }
}

const witness: Watch = {
  submit: (offset, source) => tell({ submit: offset, source: Buffer.from(source).toString('base64') }),
  done: () => tell({ done: true }),
  flushing() {
    tell({ flush: 'begun' })
    return () => tell({ flush: 'ended' })
  },
}
await job.run({ files: new HostFolder(folder), witness })
