import { foreignOption } from './foreign-words.ts'
import { resembling } from './resembling.ts'
import { UsageError } from './usage-error.ts'

/**
 * What the words of a command line mean, and what is wrong with them.
 *
 * yargs declares the options, explains them and converts their values. That a command line makes sense is found out
 * here, before: so that complaints come in the order in which a person makes mistakes, name what they complain of, and
 * leave file names alone, whatever they begin with.
 */

/** A verb's arguments: those without a name, in order, and the options that it declared to yargs. */
export interface Shape {
  readonly verb: string
  /** as `<image> [name]`, or `<image..> <place>` */
  readonly usage: string
  readonly declared: Declared
  /** options without which the verb cannot work */
  readonly demanded: readonly string[]
}

/** What `yargs.getOptions()` tells. */
export interface Declared {
  readonly key: Readonly<Record<string, unknown>>
  readonly alias: Readonly<Record<string, readonly string[]>>
  readonly boolean: readonly string[]
  readonly number: readonly string[]
  readonly array: readonly string[]
  readonly choices: Readonly<Record<string, readonly string[]>>
}

/** Options that are not the verb's own. */
const EVERYWHERE = ['help', 'version']

/** What an option means that is given without a value. */
const IMPLIED: Readonly<Record<string, string>> = { repair: 'all' }

/** Options that say what another one says, unless that says it itself. */
const SAID_BY: readonly { readonly name: string; readonly value: string; readonly by: string }[] = [
  { name: 'format', value: 'vhd', by: 'azure' },
]

/** Where people give an argument too many, the option that it was meant for. */
const SURPLUS: Readonly<Record<string, string>> = {
  create: '--size',
  merge: '--into',
  relink: '--parent',
  snapshot: '--to',
}

/**
 * Puts the words after a verb into the one form that cannot be misread: `--name=value`, arguments without a name too.
 *
 * @throws UsageError
 */
export function arrange(words: readonly string[], shape: Shape): string[] {
  const reader = new Reader(shape)
  const end = words.indexOf('--')
  const before = end === -1 ? words : words.slice(0, end)
  for (let i = 0; i < before.length; ) i += reader.read(before[i] as string, before[i + 1])
  if (end !== -1) for (const word of words.slice(end + 1)) reader.place(word)
  return reader.finish()
}

/** `vdisk info IMAGE [options]`: with what cannot be left out. */
export function usageLine({ verb, usage, demanded }: Omit<Shape, 'declared'>): string {
  const words = usage.toUpperCase().replace(/[<>]/g, '').replace('..', '...')
  const needed = demanded.map((name) => `--${name} ${VALUES[name] ?? name.toUpperCase()}`)
  return ['vdisk', verb, words, ...needed, '[options]'].filter((word) => word !== '').join(' ')
}

const VALUES: Readonly<Record<string, string>> = { parent: 'FILE' }

class Reader {
  private readonly shape: Shape
  private readonly names: readonly string[]
  private readonly placed: string[] = []
  private readonly values = new Map<string, string[]>()

  constructor(shape: Shape) {
    this.shape = shape
    // Other names of an option are keys too, and so are the arguments without a name.
    const others = [...positionsOf(shape.usage).map(({ name }) => name), ...Object.values(shape.declared.alias).flat()]
    this.names = Object.keys(shape.declared.key).filter((name) => !others.includes(name))
  }

  /** Reads a word before `--`. @returns how many words that took, 1 or 2 */
  read(word: string, next: string | undefined): number {
    // No option is a digit: so -5G is a size.
    if (!word.startsWith('-') || word === '-' || /^-[\d.]/.test(word)) {
      this.place(word)
      return 1
    }
    return word.startsWith('--') ? this.long(word, next) : this.short(word, next)
  }

  /** Takes a word for the next argument without a name. */
  place(word: string): void {
    const positions = positionsOf(this.shape.usage)
    const isMany = positions[0]?.many ?? false
    const position = positions[isMany ? Math.min(this.placed.length, positions.length - 1) : this.placed.length]
    if (!position) throw this.tooMany(word)
    if (word === '') throw this.fault(`${position.name.toUpperCase()} is empty`)
    if (word === '-' && position.name !== 'name') {
      throw this.fault(
        'standard input and output cannot be used, since images are read and written at any place',
        'Give the name of a file or of a block device.',
      )
    }
    const choices = this.shape.declared.choices[position.name]
    this.placed.push(choices ? this.choose(position.name.toUpperCase(), word, choices) : word)
  }

  /** @returns the words in their plain form @throws UsageError if some are missing */
  finish(): string[] {
    const positions = positionsOf(this.shape.usage)
    const missing = positions.filter(({ needed }, i) => needed && i >= this.placed.length)
    if (missing.length > 0) {
      throw this.fault(`${missing.map(({ name }) => name.toUpperCase()).join(' and ')} ${are(missing.length)} missing`)
    }
    for (const { name, value, by } of SAID_BY) {
      if (this.values.get(by)?.at(-1) === 'true' && !this.values.has(name)) this.take(name, value, 0)
    }
    const lacking = this.shape.demanded.filter((name) => !this.values.has(name))
    if (lacking.length > 0) throw this.lacking(lacking)
    const named = [...this.values].flatMap(([name, values]) =>
      values.map((value) =>
        this.isBoolean(name) ? (value === 'true' ? `--${name}` : `--no-${name}`) : `--${name}=${value}`,
      ),
    )
    // What is beyond the places belongs to the first, which takes many.
    const surplus = Math.max(0, this.placed.length - positions.length)
    const placed = this.placed.map((word, i) => `--${positions[Math.max(0, i - surplus)]?.name}=${word}`)
    return [...placed, ...named]
  }

  private long(word: string, next: string | undefined): number {
    const equals = word.indexOf('=')
    const text = equals === -1 ? word.slice(2) : word.slice(2, equals)
    const value = equals === -1 ? undefined : word.slice(equals + 1)
    const negated = text.startsWith('no-') ? this.nameOf(text.slice(3)) : undefined
    if (negated !== undefined && this.isBoolean(negated) && value === undefined) return this.take(negated, 'false', 1)
    const name = this.nameOf(text)
    if (name === undefined) throw this.unknown(`--${text}`)
    return this.option(name, `--${text}`, value, next)
  }

  /** `-q`, `-f raw`, `-fraw`, `-qf raw`. */
  private short(word: string, next: string | undefined): number {
    for (let i = 1; i < word.length; i++) {
      const letter = word[i] as string
      const name = this.nameOf(letter)
      if (name === undefined) throw this.unknown(i === 1 && word.length > 2 ? word : `-${letter}`, `-${letter}`)
      const rest = word.slice(i + 1).replace(/^=/, '')
      if (!this.isBoolean(name)) return this.option(name, `-${letter}`, rest === '' ? undefined : rest, next)
      this.take(name, 'true', 1)
    }
    return 1
  }

  private option(name: string, word: string, value: string | undefined, next: string | undefined): number {
    if (this.isBoolean(name)) {
      if (value !== undefined && value !== 'true' && value !== 'false') {
        throw this.fault(`${word} takes no value, but "${value}" is given`)
      }
      return this.take(name, value ?? 'true', 1)
    }
    if (value !== undefined) return this.take(name, this.valueOf(name, word, value), 1)
    const implied = IMPLIED[name]
    if (implied !== undefined && !this.isChoice(name, next)) return this.take(name, implied, 1)
    if (next === undefined || this.isOption(next)) throw this.fault(`${word} needs a value`)
    return this.take(name, this.valueOf(name, word, next), 2)
  }

  private isChoice(name: string, word: string | undefined): boolean {
    return word !== undefined && (this.shape.declared.choices[name] as readonly string[]).includes(word.toLowerCase())
  }

  private valueOf(name: string, word: string, value: string): string {
    if (value === '') throw this.fault(`${word} needs a value, and an empty one is given`)
    const choices = this.shape.declared.choices[name]
    if (choices) return this.choose(word, value, choices)
    if (this.shape.declared.number.includes(name) && !/^[1-9]\d{0,8}$/.test(value)) {
      throw this.fault(`${word} is a number from 1, not "${value}"`)
    }
    return value
  }

  private choose(what: string, value: string, choices: readonly string[]): string {
    const choice = choices.find((one) => one.toLowerCase() === value.toLowerCase())
    if (choice !== undefined) return choice
    const meant = resembling(value, choices)
    throw this.fault(
      `${what} cannot be "${value}"`,
      `${meant === undefined ? '' : `Did you mean ${meant}? `}It is one of: ${choices.join(', ')}.`,
    )
  }

  /** Of an option that is given again the last value counts, as everywhere; some take all. */
  private take(name: string, value: string, words: number): number {
    const all = this.shape.declared.array.includes(name)
    this.values.set(name, all ? [...(this.values.get(name) ?? []), value] : [value])
    return words
  }

  /** The full name of an option. */
  private nameOf(text: string): string | undefined {
    if (text.length > 1 && this.names.includes(text)) return text
    return this.names.find((name) => this.shape.declared.alias[name]?.includes(text))
  }

  private isOption(word: string): boolean {
    if (!word.startsWith('-') || word === '-') return false
    return this.nameOf(word.replace(/^--?(no-)?/, '').replace(/=[\s\S]*$/, '')) !== undefined
  }

  private isBoolean(name: string): boolean {
    return this.shape.declared.boolean.includes(name)
  }

  private unknown(word: string, short = word): UsageError {
    const known = this.names.map((name) => `--${name}`)
    const foreign = foreignOption(this.shape.verb, short, known)
    if (foreign !== undefined) return this.fault(`there is no option ${short}`, `Here that is ${foreign}.`)
    const meant = word.length > 2 ? resembling(word.replace(/^-+/, ''), this.names.filter(isOffered)) : undefined
    const advice = meant === undefined ? undefined : `Did you mean --${meant}?`
    return this.fault(`there is no option ${word}`, advice)
  }

  private tooMany(word: string): UsageError {
    const option = SURPLUS[this.shape.verb]
    const ours = option !== undefined && this.names.includes(option.slice(2))
    return this.fault(`"${word}" is one argument too many`, ours ? `Is it meant as ${option} ${word}?` : undefined)
  }

  private lacking(names: readonly string[]): UsageError {
    const missing = names.map((name) => `--${name}`).join(' and ')
    const choices = this.shape.declared.choices[names[0] as string]
    // The name of the file that is to be made tells what people want.
    const ending = /\.a?(\w+)$/.exec(this.placed.at(-1) as string)?.[1] ?? ''
    const guess = choices?.find((choice) => choice === ending || choice === `a${ending}`)
    return this.fault(
      `${missing} ${are(names.length)} missing`,
      guess === undefined ? undefined : `For this name it could be: --${names[0]} ${guess}.`,
    )
  }

  private fault(why: string, advice?: string): UsageError {
    const { verb } = this.shape
    const usage = `Usage: ${usageLine(this.shape)}. Examples: vdisk ${verb} --help`
    return new UsageError(`Cannot run vdisk ${verb}: ${why}`, advice === undefined ? usage : `${advice} ${usage}`)
  }
}

function isOffered(name: string): boolean {
  return !EVERYWHERE.includes(name)
}

function are(count: number): string {
  return count === 1 ? 'is' : 'are'
}

/** The arguments without a name. Of the first, if it says so with two dots, there may be many. */
export function positionsOf(usage: string): { name: string; needed: boolean; many: boolean }[] {
  return [...usage.matchAll(/([<[])([\w-]+)(\.\.)?[>\]]/g)].map(([, bracket, name, dots]) => ({
    name: name as string,
    needed: bracket === '<',
    many: dots !== undefined,
  }))
}
