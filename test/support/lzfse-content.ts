import { Random } from './random.ts'

export const LZFSE_VECTORS = ['text', 'mixed', 'short', 'noise'] as const
export type LzfseVector = (typeof LZFSE_VECTORS)[number]

/** What each file of testdata/lzfse unpacks to. */
export function lzfseContent(name: LzfseVector): Uint8Array {
  const random = new Random(2015)
  switch (name) {
    case 'text':
      return wordsOf(random, 60_000)
    case 'mixed':
      return Buffer.concat([
        wordsOf(random, 20_000),
        random.bytes(3000),
        new Uint8Array(70_000),
        wordsOf(random, 20_000),
        new Uint8Array(5000).fill(7),
      ])
    case 'short':
      return wordsOf(random, 900)
    case 'noise':
      return random.bytes(200)
  }
}

/** Text with words that come again, near and far. */
function wordsOf(random: Random, length: number): Uint8Array {
  const words = Array.from({ length: 200 }, () => Buffer.from(random.bytes(2 + random.below(8))).toString('base64'))
  let text = ''
  while (text.length < length) text += `${words[Math.min(random.below(200), random.below(200))]} `
  return Buffer.from(text.slice(0, length))
}
