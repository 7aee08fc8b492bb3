import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CONCERNS } from '../../../lib/index.ts'
import { BoundedStore } from '../../../lib/io/bounded-store.ts'
import { runSync, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { CraftedImage } from '../../support/crafted-qcow2.ts'
import { failureOf, memoryOf } from '../../support/hostile.ts'
import { judge, type Rule } from '../../support/judging.ts'
import { printSeed, SEED } from '../../support/random.ts'
import { contentOf, countingStore, failingStore } from '../../support/stores.ts'
import { appleRules } from './rules/apple.ts'
import { diskRules } from './rules/disks.ts'
import { emulatorRules } from './rules/emulators.ts'
import { policyRules } from './rules/policy.ts'
import { qcow2Rules } from './rules/qcow2.ts'
import { vdiRules } from './rules/vdi.ts'
import { vhdRules } from './rules/vhd.ts'
import { vhdxRules } from './rules/vhdx.ts'
import { vmdkRules } from './rules/vmdk.ts'

printSeed()

const RULES: readonly Rule[] = [
  ...policyRules,
  ...qcow2Rules,
  ...vhdxRules,
  ...diskRules,
  ...vhdRules,
  ...vmdkRules,
  ...vdiRules,
  ...emulatorRules,
  ...appleRules,
]

/** Bytes that are read of a file, whatever it is. */
const MOST_READ = (8 << 20) + (66 << 10)
/** What else moves in a process meanwhile, and what is read. */
const MOST_MEMORY = 32 << 20

/** Every crafted file, the good ones first. */
const FILES = RULES.toSorted((a, b) => a.finds.length - b.finds.length).map(({ file }) =>
  Buffer.from(contentOf(file())),
)

/** Some file with some bytes changed, and perhaps cut. */
const spoiled = fc
  .record({
    file: fc.nat(FILES.length - 1),
    changes: fc.array(
      fc.record({
        at: fc.oneof(fc.nat(128), fc.nat(4096), fc.nat(70_000), fc.nat(3 << 20)),
        bytes: fc.oneof(
          fc.uint8Array({ minLength: 1, maxLength: 8 }),
          fc.constantFrom(
            Buffer.alloc(4, 0xff),
            Buffer.alloc(8, 0xff),
            Buffer.alloc(8),
            Buffer.from('7fffffff', 'hex'),
          ),
        ),
      }),
      { maxLength: 6 },
    ),
    end: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { freq: 4 }),
  })
  .map(({ file, changes, end }) => {
    const bytes = Buffer.from(FILES[file] as Buffer)
    for (const change of changes)
      bytes.set(change.bytes.subarray(0, Math.max(0, bytes.length - change.at)), Math.min(change.at, bytes.length))
    return end === null ? bytes : bytes.subarray(0, Math.floor(bytes.length * end))
  })

describe('whatever a file holds', () => {
  test('bytes by chance are judged, and nothing is thrown', () => {
    const anything = fc.uint8Array({ maxLength: 5000 })
    const check = fc.property(anything, (bytes) => {
      const { candidates, verdict } = judge(new MemoryStore('any', { content: bytes }))
      expect(candidates.length).toBeGreaterThan(0)
      expect(['accept', 'warn', 'refuse']).toContain(verdict)
    })
    fc.assert(check, { seed: SEED, numRuns: 1000 })
  })

  test('files of every format, spoiled by chance, are judged, and nothing is thrown', () => {
    const check = fc.property(spoiled, (bytes) => {
      const { findings } = judge(new MemoryStore('any', { content: bytes }))
      for (const { code, severity, message } of findings) {
        expect(severity).toBe(CONCERNS[code].severity)
        expect(message).toMatch(/^[^\p{Ll}].*\.$/u)
        expect(message).not.toMatch(/NaN|undefined|Infinity|\[object/)
      }
    })
    fc.assert(check, { seed: SEED, numRuns: 3000 })
  })
})

describe('whatever a file says of its size', () => {
  /** A file goes on with a hole to 4 PiB; where a format looks for its end, that is there too. */
  function endless(content: Buffer): MemoryStore {
    const length = 2 ** 52
    const store = new MemoryStore('endless', { content })
    store.truncate(length)
    store.write(length - 512, content.subarray(-512))
    return store
  }

  test.each(RULES.map(({ title }, index) => [title, index] as const))('%s: little is read, and held', (_, index) => {
    for (const make of [(content: Buffer) => new MemoryStore('a', { content }), endless]) {
      const { store, counts } = countingStore(make(Buffer.from(contentOf((RULES[index] as Rule).file()))))
      expect(memoryOf(() => judge(store, (RULES[index] as Rule).options))).toBeLessThan(MOST_MEMORY)
      expect(counts.read?.bytes ?? 0).toBeLessThan(MOST_READ)
      expect(counts.read?.calls ?? 0).toBeLessThan(300)
      expect(counts.write).toBeUndefined()
    }
  })

  test('a file of 16 MiB and one of 4 PiB cost the same reads', () => {
    const reads = [16 << 20, 2 ** 52].map((size) => {
      const file = new MemoryStore('raw')
      file.truncate(size)
      const { store, counts } = countingStore(file)
      judge(store)
      return counts.read
    })
    expect(reads[0]).toEqual(reads[1])
  })

  test('no more than 8 MiB of a file are read, piece by piece neither', () => {
    const inner = new MemoryStore('large')
    inner.truncate(2 ** 40)
    const store = runSync(BoundedStore.over(inner))
    const piece = new Uint8Array(1 << 20)
    for (let i = 1; i <= 8; i++) runSync(settle(store.read(i * 2 ** 24, piece)))
    expect(failureOf(() => store.read(2 ** 39, new Uint8Array(1)))?.code).toBe('LIMIT_EXCEEDED')
    expect(runSync(store.peek(0, 100))).toHaveLength(100)
    for (const [at, length] of [
      [-1, 1],
      [Number.NaN, 1],
      [2 ** 40, 1],
      [2 ** 53, 1],
      [1 << 20, (1 << 20) + 1],
    ] as const) {
      expect(runSync(store.peek(at, length))).toBeUndefined()
    }
    expect(failureOf(() => store.write())?.code).toBe('READ_ONLY')
  })

  test('a medium that fails is no finding: there is no verdict', () => {
    const make = (): MemoryStore => vhdxRules.find(({ title }) => title === 'a file')?.file() as MemoryStore
    for (let index = 0; ; index++) {
      const store = failingStore(make(), { index, code: 'IO', kinds: ['read'] })
      const code = failureOf(() => judge(store))?.code
      if (!store.fired) {
        expect(index).toBeGreaterThan(5)
        break
      }
      expect(code).toBe('IO')
    }
  })

  test('a name of any length is told in a line', () => {
    const image = new CraftedImage().backing(`${'x'.repeat(1000)}\u0007\n`)
    const { message } = judge(image.store()).findings[0] as { message: string }
    expect(message).toMatch(/^It is built upon a backing file, "x{200}\.\.\."\.$/)
    expect(judge(new CraftedImage().backing('a\u001b\nb').store()).findings[0]?.message).toContain('"a??b"')
  })

  test('many findings of one kind do not hide those of another', () => {
    const image = qcow2Rules.find(({ title }) => title === 'an image')?.file() as MemoryStore
    const extension = Buffer.alloc(16)
    extension.writeUInt32BE(0x12345678)
    extension.writeUInt32BE(8, 4)
    for (let i = 0; i < 200; i++) image.write(112 + i * 16, extension)
    const { findings } = judge(image, { format: 'raw' })
    expect(findings.filter(({ code }) => code === 'UNKNOWN_OPTIONAL')).toHaveLength(20)
    expect(findings[0]?.code).toBe('WRONG_FORMAT')
  })
})
