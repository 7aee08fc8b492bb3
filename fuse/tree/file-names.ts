/** Bytes that a file name may have. [limits.h, NAME_MAX] */
const LONGEST = 255

/**
 * A file name made of words from elsewhere, which may hold anything.
 *
 * @param words what tells one from the other comes first: too much is cut off behind
 * @param ending with its point
 */
export function fileNameOf(words: string, ending: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is not wanted
  const plain = words.replace(/[/\u0000-\u001f\u007f]/g, '_')
  return `${cut(plain, LONGEST - Buffer.byteLength(ending))}${ending}`
}

/** The first of `name`, `name-2`, `name-3` ... that is not taken; what stands behind the last point stays there. */
export function freeName(name: string, isTaken: (name: string) => boolean): string {
  const point = name.lastIndexOf('.')
  const [stem, ending] = point > 0 ? [name.slice(0, point), name.slice(point)] : [name, '']
  for (let number = 1; ; number++) {
    const candidate = number === 1 ? name : fileNameOf(`${cut(stem, LONGEST - 20)}-${number}`, ending)
    if (!isTaken(candidate)) return candidate
  }
}

/** As much of the beginning as fits, by whole characters. */
function cut(text: string, bytes: number): string {
  let length = 0
  let end = 0
  for (const character of text) {
    length += Buffer.byteLength(character)
    if (length > bytes) break
    end += character.length
  }
  return text.slice(0, end)
}
