import fs from 'node:fs'
import { messageOf } from '../lib/index.ts'
import { serveForeground } from './daemon.ts'
import { faultOf } from './fault.ts'
import type { MountOptions } from './server.ts'

/**
 * The program in the background that serves a mount. `startDaemon` runs it: what to mount is its argument, in JSON; one
 * line of JSON leaves through descriptor 3 as soon as it is known whether the mount works. Standard error is the log.
 */
const ANSWER = 3

const { options, logFile } = JSON.parse(process.argv[2] ?? '{}') as { options: MountOptions; logFile: string }
process.title = `vdisk mount ${options.images.join(' ')} ${options.mountpoint}`

let answered = false

/** @throws Error if nobody is there any more to hear it */
function answer(content: object): void {
  if (answered) return
  answered = true
  fs.writeSync(ANSWER, JSON.stringify(content))
  fs.closeSync(ANSWER)
}

try {
  await serveForeground(options, {
    logFile,
    onMounted(mounted) {
      try {
        answer({ mounted })
      } catch {
        // Whoever asked for the mount was ended meanwhile: nobody knows of it, so it should not stay.
        process.kill(process.pid, 'SIGTERM')
      }
    },
  })
} catch (error) {
  process.stderr.write(`${new Date().toISOString()} ${messageOf(error)}\n`)
  process.exitCode = 1
  if (!answered) answer({ fault: faultOf(error) })
}
