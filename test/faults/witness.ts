import { firstDifference } from '../model/history.ts'
import { NaiveDisk } from '../model/naive-disk.ts'
import type { Watch } from './scripted-job.ts'

/**
 * What was asked of a disk and what was promised: so what it may hold after something has failed.
 *
 * Each byte has the value that it had when the last flush that succeeded began, or one that it was given since.
 */
export class Witness implements Watch {
  private now: NaiveDisk
  private versions: Uint8Array[]

  constructor(content: Uint8Array) {
    this.now = new NaiveDisk(content.length, content)
    this.versions = [content]
  }

  /** Before it is asked for: what fails may have happened in part. */
  submit(offset: number, source: Uint8Array): void {
    this.now.write(offset, source)
    this.versions.push(this.now.bytes.slice())
  }

  /** What is not flushed may still be lost. */
  done(): void {}

  /** A flush begins. @returns to be called when it has succeeded */
  flushing(): () => void {
    const asked = this.versions.length - 1
    return () => {
      this.versions = this.versions.slice(asked)
    }
  }

  /** The disk was opened anew, and this is what it holds. */
  restart(content: Uint8Array): void {
    this.now = new NaiveDisk(content.length, content)
    this.versions = [content]
  }

  /** What is wrong with a content; undefined: nothing. */
  complaint(found: Uint8Array): string | undefined {
    if (found.length !== this.now.bytes.length) return `${found.length} bytes, not ${this.now.bytes.length}`
    if (Buffer.compare(found, this.now.bytes) === 0) return undefined
    const at = found.findIndex((byte, i) => this.versions.every((version) => version[i] !== byte))
    if (at < 0) return undefined
    return `byte ${at} is none of the ${this.versions.length} that it was since the last flush; ${firstDifference(found, this.now)}`
  }
}
