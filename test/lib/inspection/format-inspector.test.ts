import { describe, expect, test } from 'vitest'
import type { ConcernCode, JudgeOptions } from '../../../lib/index.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { CraftedFile } from '../../support/crafted-file.ts'
import { CraftedImage } from '../../support/crafted-qcow2.ts'
import { codesIn, judge, type Rule } from '../../support/judging.ts'
import { writeMbr } from '../../support/partition-tables.ts'
import { vmdkRules } from './rules/vmdk.ts'

/**
 * What OpenStack's oslo.utils tests of its format_inspector, as its unit tests name it, on images of ours: what it
 * refuses is refused here.
 */

function expectRefused(store: MemoryStore, code: ConcernCode, options: JudgeOptions = {}): void {
  const judgement = judge(store, options)
  expect(judgement.verdict).toBe('refuse')
  expect(codesIn(judgement)).toContain(code)
}

function expectPassed(store: MemoryStore, options: JudgeOptions = {}): void {
  expect(judge(store, options).verdict).not.toBe('refuse')
}

describe('qcow2', () => {
  /** An image whose incompatible features are these bytes, the highest first. */
  const flags = (...bytes: number[]): MemoryStore => {
    const image = new CraftedImage()
    Buffer.from(bytes).copy(image.bytes, 72)
    return image.store()
  }

  test('safety checks: no backing and no data file pass, either of them fails', () => {
    expectPassed(new CraftedImage().store())
    expectRefused(new CraftedImage().backing('backing').store(), 'PARENT_REFERENCE')
    expectRefused(new CraftedImage().header('incompatible', 4).store(), 'EXTERNAL_DATA')
  })

  test('feature flags: known ones pass, others fail wherever they are', () => {
    expectPassed(flags(0, 0, 0, 0, 0, 0, 0, 0))
    expectRefused(flags(1, 0, 0, 0, 0, 0, 0, 0), 'UNKNOWN_FEATURE')
    expectPassed(flags(0, 0, 0, 0, 0, 0, 0, 1))
    expectRefused(flags(0, 0, 0, 0, 0, 0, 0, 0x80), 'UNKNOWN_FEATURE')
    for (let at = 0; at < 7; at++)
      expectRefused(flags(...Array.from({ length: 8 }, (_, i) => (i === at ? 16 : 0))), 'UNKNOWN_FEATURE')
  })

  test('version 2 had no flags, versions 1 and 4 are refused', () => {
    const old = new CraftedImage({ version: 2 })
    expectPassed(old.store())
    expectRefused(new CraftedImage().header('version', 1).store(), 'FORMAT_NOT_ALLOWED')
    expectRefused(new CraftedImage().header('version', 4).store(), 'UNKNOWN_VERSION')
  })

  test('a claim: content that is not what is expected ends it', () => {
    expectRefused(new CraftedImage().store(), 'WRONG_FORMAT', { format: 'vmdk' })
    expectRefused(new CraftedFile(4096, 'big').store(), 'WRONG_FORMAT', { format: 'qcow2' })
  })
})

describe('QED, banned; data that is invalid; discs that are qcow2', () => {
  test('QED is always unsafe', () => {
    expectRefused(new CraftedFile(4096, 'little').text(0, 'QED\0').store(), 'FORMAT_NOT_ALLOWED')
  })

  test('text of a program is raw, and nothing if raw is not allowed', () => {
    const text = new CraftedFile(6000, 'big').fill(0, 6000, 0x20).text(0, 'import os\n').store()
    expectPassed(text)
    expectRefused(text, 'FORMAT_NOT_ALLOWED', { allow: ['qcow2', 'vmdk'] })
  })

  test('a disc with the header of qcow2 in its system area is both', () => {
    const image = new CraftedImage({ clusterBits: 16 })
    image.bytes.write('CD001', (32 << 10) + 1, 'latin1')
    const { candidates } = judge(image.store())
    expect(candidates).toEqual(['qcow2', 'iso'])
    expectRefused(image.store(), 'AMBIGUOUS_FORMAT', { format: 'iso' })
  })
})

describe('VMDK', () => {
  const rule = (title: string): MemoryStore =>
    (vmdkRules.find((one) => one.title === title) as Rule).file() as MemoryStore

  const scenarios: readonly (readonly [string, string, ConcernCode])[] = [
    ['non_sparse_unsafe', 'a type with other files', 'EXTERNAL_DATA'],
    ['bad_descriptor_offset', 'a descriptor elsewhere', 'BAD_DESCRIPTOR'],
    ['bad_descriptor_mem_limit', 'a descriptor of 2 MiB', 'TABLE_TOO_LARGE'],
    ['invalid_type', 'a type that is not known', 'UNKNOWN_FEATURE'],
    ['footer_checks: version', 'a footer of another disk', 'COPIES_DIFFER'],
    ['footer_checks: descriptor', 'a footer with another descriptor', 'COPIES_DIFFER'],
    ['footer_checks: another footer', 'a footer that refers to another', 'DAMAGED'],
    ['footer_checks: marker', 'a footer without marker', 'DAMAGED'],
    ['footer_checks: padding', 'a footer whose marker hides bytes', 'DAMAGED'],
    ['footer_checks: end of stream', 'no end behind the footer', 'DAMAGED'],
    ['safety_checks: no createType', 'no type', 'BAD_DESCRIPTOR'],
    ['safety_checks: access mode', 'an access that is not known', 'BAD_DESCRIPTOR'],
    ['safety_checks: extent names', 'a path in the extent', 'EXTERNAL_DATA'],
    ['safety_checks: no extents', 'no extent', 'BAD_DESCRIPTOR'],
    ['format_checks: version', 'a header of another version', 'UNKNOWN_VERSION'],
  ]
  test.each(scenarios)('%s', (_, title, code) => expectRefused(rule(title), code))

  test('with_footer: a good one passes', () => expectPassed(rule('a VMDK with a footer')))
})

describe('gpt_mbr_check', () => {
  const one = { type: 0xee, firstChs: Buffer.from([0, 2, 0]), firstLba: 1 }
  const disk = (...entries: Parameters<typeof writeMbr>[1]): MemoryStore => {
    const file = new CraftedFile(1 << 20, 'little')
    writeMbr(file.bytes, entries)
    return file.store()
  }

  test.each([
    ['boot flag', [{ ...one, status: 0x0a }]],
    ['no partitions', [{ ...one, type: 0 }]],
    ['extra partitions', [one, one]],
    ['start CHS', [{ ...one, firstChs: Buffer.from([0, 1, 0]) }]],
    ['start LBA', [{ ...one, firstLba: 2 }]],
  ] as const)('%s', (_, entries) => expectRefused(disk(...entries), 'BAD_PARTITION_TABLE'))

  test('any start is right for what is no GPT', () => {
    expectPassed(disk({ type: 0x8e, firstChs: Buffer.from([0, 1, 0]), firstLba: 2 }))
  })
})

describe('LUKS', () => {
  const luks = (version: number): MemoryStore =>
    new CraftedFile(1 << 20, 'big').text(0, 'LUKS\xba\xbe').u16(6, version).store()

  test('version 1 passes where it is allowed, version 2 fails', () => {
    expectPassed(luks(1), { allow: ['luks'] })
    expectRefused(luks(2), 'NOT_JUDGED', { allow: ['luks'] })
  })
})
