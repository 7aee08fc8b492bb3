import { execFileSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { TooMuch, unpackBzip2 } from '../../../lib/bytes/bzip2.ts'
import { crc64 } from '../../../lib/bytes/crc64.ts'
import { unpackXz } from '../../../lib/bytes/xz.ts'
import { packableDisk } from '../../support/packed-disks.ts'
import { describeWithPeers } from '../../support/peers.ts'
import { printSeed, type Random, randomFor, randomTest } from '../../support/random.ts'

printSeed()

function packedBy(tool: string, args: readonly string[], content: Uint8Array): Buffer {
  return execFileSync(tool, ['-c', ...args], { input: content, maxBuffer: 1 << 28 })
}

/** Text and noise, long enough for every kind of match. */
function mixed(random: Random): Uint8Array {
  const words = Array.from({ length: 300 }, () => Buffer.from(random.bytes(1 + random.below(9))).toString('base64'))
  const text = Buffer.from(Array.from({ length: 20_000 }, () => random.pick(words)).join(' '))
  return Buffer.concat([text, packableDisk(random, 700_000), text.subarray(0, random.below(text.length))])
}

function unxz(packed: Uint8Array, length: number): Uint8Array {
  const target = new Uint8Array(length)
  unpackXz(packed, target)
  return target
}

/** Every damage is either noticed, or has not touched what is unpacked; none does worse. */
function expectDamageNoticed(packed: Uint8Array, content: Uint8Array, unpack: (bytes: Uint8Array) => Uint8Array): void {
  const random = randomFor('damage')
  for (let times = 0; times < 300; times++) {
    const damaged = Uint8Array.from(packed)
    if (random.chance(0.2)) damaged.fill(0, damaged.length - random.below(damaged.length))
    else damaged[random.below(damaged.length)] = random.below(256)
    const cut = random.chance(0.2) ? damaged.subarray(0, random.below(damaged.length)) : damaged
    try {
      expect(Buffer.compare(unpack(cut), content)).toBe(0)
    } catch (error) {
      expect(error).toBeInstanceOf(RangeError)
    }
  }
}

test('crc64 gives the check value of the standard', () => {
  expect(crc64(Buffer.from('123456789')).toString(16)).toBe('995dc9bbdf1939fa')
})

test('what follows the last stream of bzip2 is passed over, and nothing else is', () => {
  // A stream of no block: its level, and a sum of nothing.
  const whole = Buffer.from(`${Buffer.from('BZh9').toString('hex')}177245385090${'00000000'}`, 'hex')
  expect(unpackBzip2(whole, 10)).toHaveLength(0)
  expect(unpackBzip2(Buffer.concat([whole, whole, Buffer.from('rubbish')]), 10)).toHaveLength(0)
  expect(() => unpackBzip2(Buffer.concat([Buffer.from('rubbish'), whole]), 10)).toThrow('no bzip2 stream begins here')
  expect(() => unpackBzip2(Buffer.concat([Buffer.from('BZh0'), whole]), 10)).toThrow('no bzip2 stream begins here')
})

describeWithPeers(['xz'], 'xz', () => {
  randomTest('unpacks what xz packs, whatever its settings', (random) => {
    const content = mixed(random)
    for (const args of [
      ['-6'],
      ['-0'],
      ['--check=none'],
      ['--check=crc32'],
      ['--check=sha256'],
      ['--block-size=65536'],
      ['--lzma2=lc=0,lp=4,pb=0'],
      ['--lzma2=lc=1,lp=2,pb=4,dict=4096'],
    ]) {
      expect(Buffer.compare(unxz(packedBy('xz', args, content), content.length), content), args.join()).toBe(0)
    }
  })

  test.each(['crc32', 'crc64', 'sha256'])('compares the check of a block: %s', (check) => {
    const content = packableDisk(randomFor(check), 5000)
    const packed = packedBy('xz', [`--check=${check}`], content)
    const indexLength = (packed.readUInt32LE(packed.length - 8) + 1) * 4
    const last = packed.length - 12 - indexLength - 1
    packed[last] = (packed[last] as number) ^ 1
    expect(() => unxz(packed, content.length)).toThrow('checksum')
  })

  test('refuses other filters by name', () => {
    const packed = packedBy('xz', ['--x86', '--lzma2'], new Uint8Array(1000))
    expect(() => unxz(packed, 1000)).toThrow('x86')
  })

  test('notices every damage', () => {
    const content = packableDisk(randomFor('xz'), 20_000)
    const packed = packedBy('xz', ['--block-size=8192'], content)
    expectDamageNoticed(packed, content, (bytes) => unxz(bytes, content.length))
  })
})

describeWithPeers(['bzip2'], 'bzip2', () => {
  randomTest('unpacks what bzip2 packs, also several streams', (random) => {
    const content = mixed(random)
    for (const [args, length] of [
      [['-9'], content.length],
      [['-1'], content.length],
      [['-9'], 0],
      [['-9'], 1],
    ] as const) {
      const part = content.subarray(0, length)
      const packed = packedBy('bzip2', args, part)
      expect(Buffer.compare(unpackBzip2(packed, 1 << 26), part)).toBe(0)
      expect(unpackBzip2(Buffer.concat([packed, packed]), 1 << 26).length).toBe(2 * length)
    }
  })

  describe('bounds', () => {
    const bomb = packedBy('bzip2', [], new Uint8Array(30 << 20))

    test('a bomb gets no more room than it may have', () => {
      expect(bomb.length).toBeLessThan(100)
      expect(() => unpackBzip2(bomb, 1 << 20)).toThrow(TooMuch)
    })

    test('very many very small blocks take no longer than they are', () => {
      const small = packedBy('bzip2', [], Buffer.from('x'))
      const many = Buffer.concat(Array.from({ length: 5000 }, () => small))
      expect(unpackBzip2(many, 1 << 20).length).toBe(5000)
    })
  })

  test('notices every damage', () => {
    const content = packableDisk(randomFor('bzip2'), 20_000)
    expectDamageNoticed(packedBy('bzip2', [], content), content, (bytes) => unpackBzip2(bytes, 1 << 20))
  })
})
