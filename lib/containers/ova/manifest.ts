/**
 * The manifest of an appliance: the digest of each file. [DSP0243 2.1.1, 6.1 "Overview of an OVF package"]
 */

/** Hash functions that manifests use, by the names that those have for them. */
export const DIGESTS = { SHA1: 'sha1', SHA256: 'sha256', SHA512: 'sha512' } as const

export interface ManifestLine {
  readonly algorithm: keyof typeof DIGESTS
  readonly name: string
  /** hexadecimal, lower case */
  readonly digest: string
}

export interface Manifest {
  readonly lines: readonly ManifestLine[]
  /** numbers of lines that mean nothing, counted from 1 */
  readonly odd: readonly number[]
}

const LINE = /^(SHA1|SHA256|SHA512)\s*\((.+)\)\s*=\s*([0-9a-f]+)\s*$/i
const LENGTH = { SHA1: 40, SHA256: 64, SHA512: 128 } as const

export function parseManifest(text: string): Manifest {
  const lines: ManifestLine[] = []
  const odd: number[] = []
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    const [, word = '', name = '', digest = ''] = LINE.exec(line) ?? []
    const algorithm = word.toUpperCase() as keyof typeof DIGESTS
    if (name === '' || digest.length !== LENGTH[algorithm]) odd.push(index + 1)
    else lines.push({ algorithm, name, digest: digest.toLowerCase() })
  }
  return { lines, odd }
}

export function formatManifest(lines: readonly ManifestLine[]): string {
  return lines.map(({ algorithm, name, digest }) => `${algorithm}(${name})= ${digest}\n`).join('')
}
