import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, vi } from 'vitest'
import { listMounts } from '../../fuse/daemon.ts'
import { checkImage, createDisk, finish, openDisk } from '../../lib/index.ts'
import { Bench, must } from './mounts.ts'

/** What tests of mounts have in common. */

export const MIB = 1 << 20

/** An ordinary user that every system has. */
export const NOBODY = 65534

/** A group of tests that needs something; what is missing stands in its name. */
export function describeIf(missing: string | undefined, name: string, body: () => void): void {
  describe.skipIf(missing !== undefined)(missing ? `${name} (skipped: ${missing})` : name, body)
}

/** A bench for the tests of one file: made before them, cleaned after each. Valid inside of tests. */
export function useBench(): Bench {
  let bench: Bench | undefined
  beforeAll(async () => {
    bench = await Bench.make()
  })
  afterEach(async () => {
    await bench?.clean()
    vi.unstubAllEnvs()
  })
  afterAll(() => bench?.dispose())
  return new Proxy({} as Bench, {
    get: (_, name) => {
      const value: unknown = Reflect.get(bench as Bench, name)
      return typeof value === 'function' ? value.bind(bench) : value
    },
  })
}

export async function makeImage(bench: Bench, format: string, size: number, name = `disk.${format}`): Promise<string> {
  const image = bench.place(name)
  await (await createDisk(image, { format, size })).close()
  return image
}

/** What is mounted in the folder of these tests: others may mount on this machine too. */
export function mountsOf(bench: Bench): ReturnType<typeof listMounts> {
  const folder = fs.realpathSync(bench.folder)
  return listMounts().filter(({ mountpoint }) => mountpoint.startsWith(`${folder}${path.sep}`))
}

/** Bytes that differ from each other, the same for the same seed. */
export function noise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length)
  let state = seed
  for (let at = 0; at < length; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes.writeUInt32LE(state, Math.min(at, length - 4))
  }
  return bytes
}

export async function readBack(image: string, offset: number, length: number, format?: string): Promise<Buffer> {
  await using disk = await openDisk(image, { format })
  const bytes = Buffer.alloc(length)
  await disk.read(offset, bytes)
  return bytes
}

/** @param allow folders that parents may lie in */
export async function findingsOf(image: string, allow: readonly string[] = []): Promise<unknown[]> {
  return [...(await finish(checkImage(image, { allow }))).findings]
}

export function hashOf(file: string): string {
  return createHash('sha256').update(fs.readFileSync(file)).digest('hex')
}

/** What the server of a mount has written down so far. */
export function logOf(mounted: { readonly log: string | undefined }): string {
  return fs.readFileSync(mounted.log as string, 'utf8')
}

/** The name of the error that a call throws. */
export function errnoOf(call: () => unknown): string | undefined {
  try {
    call()
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  }
}

/**
 * Reads a file by mapping it into memory, and changes it there, near its start and at its end.
 *
 * @param content what it holds; the same is changed in it
 * @param flush whether the program hands its pages on by itself
 * @returns the SHA-256 that it saw before
 */
export function changeMapped(file: string, content: Buffer, flush: boolean): string {
  const script = `
import mmap, hashlib, sys
with open(sys.argv[1], 'r+b') as file:
    with mmap.mmap(file.fileno(), 0) as memory:
        print(hashlib.sha256(memory).hexdigest())
        memory[4090:4100] = b'0123456789'
        memory[-5:] = b'tail!'
        ${flush ? 'memory.flush()' : 'pass'}
`
  const seen = must('python3', '-c', script, file).trim()
  content.write('0123456789', 4090)
  content.write('tail!', content.length - 5)
  return seen
}
