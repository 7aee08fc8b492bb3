import childProcess from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import {
  checkImage,
  finish,
  inspectChain,
  inspectImage,
  inspectPartitions,
  isVdiskError,
  openDisk,
  repairImage,
} from '../../lib/index.ts'
import { placeOf } from '../support/hostile.ts'

/**
 * A program that uses images as a stranger gave them, in a process of its own: it may hang, or take all memory, and
 * nobody but it is hurt. It notes every file that is opened, every connection and every program that is started.
 */

export type Use = 'inspect' | 'read' | 'check' | 'partitions' | 'write' | 'repair'

export interface StrangerRequest {
  readonly use: Use
  readonly file: string
  readonly options: { readonly format?: string; readonly parentFormat?: string; readonly allow?: readonly string[] }
}

export interface StrangerAnswer {
  /** 'fine', code and place of the error, or what a check finds */
  readonly outcome: string
  /** what was thrown that is no VdiskError */
  readonly untyped: string | undefined
  /** every path that was opened, and whatever else reached out of the process */
  readonly touched: readonly string[]
  /** bytes by which the process was larger at its largest than before */
  readonly grown: number
}

/** Extents of a map, and bytes of a read, that are looked at. */
const MOST = { extents: 200, bytes: 65536 }

const touched: string[] = []
watch(fs, ['open', 'openSync', 'openAsBlob', 'opendir', 'opendirSync', 'readFile', 'readFileSync', 'createReadStream'])
watch(fs.promises, ['open', 'readFile', 'opendir'])
watch(net.Socket.prototype, ['connect'])
watch(childProcess, ['spawn', 'spawnSync', 'execFile', 'execFileSync', 'fork'])

process.on('message', (request: StrangerRequest) => void answer(request))

async function answer(request: StrangerRequest): Promise<void> {
  touched.length = 0
  collect()
  forgetPeak()
  const before = process.memoryUsage().rss
  let outcome = 'fine'
  let untyped: string | undefined
  try {
    outcome = (await uses[request.use](request)) ?? 'fine'
  } catch (error) {
    if (isVdiskError(error)) outcome = placeOf(error)
    else untyped = error instanceof Error ? (error.stack ?? error.message) : String(error)
  }
  const grown = Math.max(0, process.resourceUsage().maxRSS * 1024 - before)
  process.send?.({ outcome, untyped, touched: [...touched], grown } satisfies StrangerAnswer)
}

/** So that what one step has left is not counted for the next. */
function collect(): void {
  globalThis.gc?.()
}

/** From here on the peak is that of what follows; where the system cannot do that, it is that of all before, too. */
function forgetPeak(): void {
  if (process.platform === 'linux') fs.writeFileSync('/proc/self/clear_refs', '5')
}

const uses: Readonly<Record<Use, (request: StrangerRequest) => Promise<string | undefined>>> = {
  async inspect({ file, options }) {
    JSON.stringify(await inspectImage(file, options), (_, value) => (typeof value === 'bigint' ? String(value) : value))
    collect()
    await inspectChain(file, options)
    return undefined
  },

  async read({ file, options }) {
    await using disk = await openDisk(file, options)
    const target = new Uint8Array(Math.min(MOST.bytes, disk.size))
    for (const at of [0, Math.floor((disk.size - target.length) / 2), disk.size - target.length]) {
      await disk.read(at, target)
    }
    let left = MOST.extents
    for await (const _ of disk.extents()) if (--left === 0) break
    return undefined
  },

  async check({ file, options }) {
    const { findings } = await finish(checkImage(file, { ...options, chain: true }))
    const codes = findings.filter(({ severity }) => severity !== 'leak').map(({ code }) => code)
    return codes.length === 0 ? 'fine' : `finds ${[...new Set(codes)].sort().join(', ')}`
  },

  async repair({ file, options }) {
    const { count } = await finish(repairImage(file, options))
    return `mends ${count}`
  },

  async partitions({ file, options }) {
    await inspectPartitions(file, options)
    return undefined
  },

  async write({ file, options }) {
    await using disk = await openDisk(file, { ...options, writable: true })
    await disk.write(0, new Uint8Array(Math.min(512, disk.size)).fill(0x77))
    await disk.flush()
    return undefined
  },
}

/** Notes each call of these functions by its first argument. */
function watch(owner: object, names: readonly string[]): void {
  const functions = owner as Record<string, (...args: unknown[]) => unknown>
  for (const name of names) {
    const inner = functions[name]
    if (!inner) continue
    functions[name] = function (this: unknown, ...args: unknown[]): unknown {
      const [what] = args
      touched.push(typeof what === 'string' ? what : `${name} ${JSON.stringify(what)}`)
      return inner.apply(this, args)
    }
  }
}
