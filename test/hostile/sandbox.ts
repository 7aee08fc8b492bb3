import { type ChildProcess, fork } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { build } from 'esbuild'
import { afterAll, beforeAll, expect } from 'vitest'
import { CraftedImage } from '../support/crafted-qcow2.ts'
import { BUDGET, SLACK } from '../support/hostile.ts'
import type { StrangerAnswer, StrangerRequest, Use } from './stranger.ts'

/** Seconds of processor time after which one use of an image counts as a hang. */
const PATIENCE = 1
/** Seconds, in which whoever waits for something that never comes is found out. */
const SLEEP = 30
/** Milliseconds between two looks at the clock. */
const LOOK = 50

export const ALL_USES: readonly Use[] = ['inspect', 'read', 'check', 'partitions', 'write']

/** What the uses of an image came to, by use. */
export type Outcomes = Readonly<Record<Use, string>>

export interface SandboxOptions extends Partial<StrangerRequest['options']> {
  readonly uses?: readonly Use[]
  /** files besides the image itself that may be opened */
  readonly mayOpen?: readonly string[]
}

/**
 * Uses images in a process of its own, one for a file of tests.
 *
 * Whatever else a test expects, this is always so: each use ends, takes no more memory than an opening may, fails with
 * nothing but a VdiskError, and opens no file but the image, no connection and no program.
 */
export class Sandbox {
  private readonly folder: string
  private child: ChildProcess | undefined

  private constructor(folder: string) {
    this.folder = folder
  }

  /** One for the tests of this file. */
  static forThisFile(): Sandbox {
    const sandbox = new Sandbox(fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-stranger-')))
    beforeAll(() => sandbox.prepare())
    afterAll(() => sandbox.end())
    return sandbox
  }

  /** Uses an image in all ways, or those given, in that order. */
  async use(file: string, { uses = ALL_USES, mayOpen = [], ...options }: SandboxOptions = {}): Promise<Outcomes> {
    const outcomes: Partial<Record<Use, string>> = {}
    for (const use of uses) {
      const answer = await this.ask({ use, file, options })
      expect(answer.untyped, `what ${use} of ${path.basename(file)} ended with`).toBeUndefined()
      const may = new Set([file, ...mayOpen])
      const strange = answer.touched.filter((name) => !may.has(name) && !isOfTheSystem(name))
      expect(strange, `what ${use} of ${path.basename(file)} reached for`).toEqual([])
      expect(answer.grown, `memory that ${use} of ${path.basename(file)} took`).toBeLessThan(BUDGET + SLACK)
      outcomes[use] = answer.outcome
    }
    return outcomes as Outcomes
  }

  /** One use, and nothing expected of it. @throws Error if it does not end */
  async ask(request: StrangerRequest): Promise<StrangerAnswer> {
    const child = this.child ?? (await this.start())
    const began = cpuOf(child)
    const wall = Date.now()
    return await new Promise<StrangerAnswer>((resolve, reject) => {
      const clock = setInterval(() => {
        const used = cpuOf(child) - began
        const slept = (Date.now() - wall) / 1000
        if (used <= PATIENCE && slept <= SLEEP) return
        finish()
        this.kill()
        const why = used > PATIENCE ? `after ${PATIENCE} s of work` : 'and does nothing'
        reject(new Error(`${request.use} of ${request.file} does not end ${why}`))
      }, LOOK)
      const onMessage = (answer: StrangerAnswer): void => {
        finish()
        resolve(answer)
      }
      const onExit = (code: number | null, signal: string | null): void => {
        finish()
        this.child = undefined
        reject(new Error(`${request.use} of ${request.file} ended its process: ${signal ?? code}`))
      }
      const finish = (): void => {
        clearInterval(clock)
        child.off('message', onMessage)
        child.off('exit', onExit)
      }
      child.on('message', onMessage)
      child.on('exit', onExit)
      child.send(request)
    })
  }

  private async prepare(): Promise<void> {
    const root = path.join(import.meta.dirname, '..', '..')
    await build({
      absWorkingDir: root,
      entryPoints: ['test/hostile/stranger.ts'],
      outfile: path.join(this.folder, 'stranger.mjs'),
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      external: ['koffi', '@bokuweb/zstd-wasm'],
      banner: {
        js: `import { createRequire as __c } from 'node:module'; const require = __c(${JSON.stringify(path.join(root, 'package.json'))});`,
      },
      logLevel: 'warning',
    })
    fs.symlinkSync(path.join(root, 'node_modules'), path.join(this.folder, 'node_modules'), 'dir')
  }

  /** The first use of any image loads what all others need. */
  private async start(): Promise<ChildProcess> {
    this.child = fork(path.join(this.folder, 'stranger.mjs'), {
      execArgv: ['--expose-gc'],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    const sound = path.join(this.folder, 'sound')
    fs.writeFileSync(sound, new CraftedImage().bytes)
    for (const use of ALL_USES) await this.ask({ use, file: sound, options: {} })
    return this.child
  }

  private kill(): void {
    this.child?.kill('SIGKILL')
    this.child = undefined
  }

  private end(): void {
    this.kill()
    fs.rmSync(this.folder, { recursive: true, force: true })
  }
}

/** What the process looks at to see who else has a file open, and what it consists of itself. */
function isOfTheSystem(name: string): boolean {
  return name === '/proc/locks' || name.includes(`${path.sep}node_modules${path.sep}`)
}

/** Seconds of processor time that a process has had; where that cannot be told, of the clock. */
function cpuOf(child: ChildProcess): number {
  try {
    const fields = fs
      .readFileSync(`/proc/${child.pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  } catch {
    return process.platform === 'linux' ? 0 : Date.now() / 1000
  }
}
