import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import readline from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import type { Operation } from './operations.ts'

/** What came of an operation. */
export interface Outcome {
  readonly data?: Buffer
  /** ranges that are holes: offset and length in bytes */
  readonly holes?: readonly (readonly [number, number])[]
  /** the words of the system; or that the client is gone */
  readonly error?: string
}

/** A program that uses the mounted disk, one operation at a time. */
export class Client {
  private readonly child: ChildProcessByStdio<Writable, Readable, null>
  private readonly answers: AsyncIterator<string>
  private readonly ended: Promise<unknown>

  /** @param program operations.py */
  constructor(program: string, disk: string) {
    this.child = spawn('python3', [program, disk], { stdio: ['pipe', 'pipe', 'ignore'] })
    // It may die of a mapped page that is gone, while we write to it.
    this.child.stdin.on('error', () => {})
    this.answers = readline.createInterface({ input: this.child.stdout })[Symbol.asyncIterator]()
    this.ended = once(this.child, 'close')
  }

  async perform({ kind, offset, length, data }: Operation): Promise<Outcome> {
    const content = data === undefined ? {} : { data: Buffer.from(data).toString('base64') }
    this.child.stdin.write(`${JSON.stringify({ kind, offset, length, ...content })}\n`)
    const { value, done } = await this.answers.next()
    if (done) return { error: 'the client has died' }
    const answer = JSON.parse(value) as { data?: string; holes?: [number, number][]; error?: string }
    return { ...answer, ...(answer.data === undefined ? {} : { data: Buffer.from(answer.data, 'base64') }) } as Outcome
  }

  async end(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }
}
