/**
 * The one command that unpacks a file, as it can be typed into a shell. The packed file stays. A name that does not end as
 * such files do, of which the programs would make none, gets `.raw` behind it.
 *
 * @param program with what makes it unpack
 * @param ending with the dot
 */
export function unpackCommand(file: string, program: string, ending: string): string {
  // A name that begins like an option.
  const name = file.startsWith('-') ? `./${file}` : file
  if (name.toLowerCase().endsWith(ending)) return `${program} --keep ${word(name)}`
  return `${program} --stdout < ${word(name)} > ${word(`${name}.raw`)}`
}

/** Text as one word of a POSIX shell. */
function word(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
