const UNITS = ['', 'K', 'M', 'G', 'T', 'P', 'E']

/**
 * Reads a size as people write it: `4096`, `512M`, `1.5G`, `10GiB`. Units are powers of 1024, as in every disk tool.
 *
 * @returns bytes, or undefined if the text is no size or the size is no whole number of bytes below 2^53
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGTPE]?)(?:i?B)?$/i.exec(text.trim())
  if (!match) return undefined
  const bytes = Number(match[1]) * 1024 ** UNITS.indexOf((match[2] as string).toUpperCase())
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/** `1073741824` as `1 GiB`, at most three digits after the point. */
export function formatSize(bytes: number): string {
  let power = 0
  while (power < UNITS.length - 1 && bytes >= 1024 ** (power + 1)) power++
  const value = bytes / 1024 ** power
  return `${Number(value.toFixed(value >= 100 ? 1 : 2))} ${power === 0 ? 'B' : `${UNITS[power]}iB`}`
}
