import { parseSize } from '../bytes/size.ts'
import { VdiskError } from '../errors.ts'
import type { CreateOption } from './driver.ts'

/** Options of one image to be made, checked against what its format knows. */
export class CreateOptions {
  readonly file: string
  readonly driver: string
  private readonly values: ReadonlyMap<string, string>

  /** @throws VdiskError REFUSED for a name or value that the format does not know */
  constructor(file: string, driver: string, known: readonly CreateOption[], given: ReadonlyMap<string, string>) {
    const refused = (why: string, advice: string): VdiskError => refusal({ file, driver }, why, advice)
    const values = new Map<string, string>()
    for (const option of known) if (option.initial !== undefined) values.set(option.name, option.initial)
    for (const [name, value] of given) {
      const option = known.find((candidate) => candidate.name === name)
      if (!option) {
        throw refused(`it has no option "${name}"`, `Known options: ${known.map((o) => o.name).join(', ')}.`)
      }
      if (Array.isArray(option.values) && !option.values.includes(value)) {
        throw refused(`${name} cannot be "${value}"`, `Choose one of: ${option.values.join(', ')}.`)
      }
      if (option.values === 'switch' && !['on', 'off'].includes(value)) {
        throw refused(`${name} cannot be "${value}"`, 'Choose on or off.')
      }
      if (option.values === 'size' && parseSize(value) === undefined) {
        throw refused(`${name} cannot be "${value}"`, 'Give a size such as 64K or 2M.')
      }
      values.set(name, value)
    }
    this.file = file
    this.driver = driver
    this.values = values
  }

  has(name: string): boolean {
    return this.values.has(name)
  }

  text(name: string): string {
    return this.values.get(name) ?? ''
  }

  on(name: string): boolean {
    return this.values.get(name) === 'on'
  }

  /** bytes */
  size(name: string): number {
    return parseSize(this.text(name)) ?? 0
  }

  /** @throws VdiskError REFUSED with the reason */
  refuse(why: string, advice?: string): never {
    throw refusal(this, why, advice)
  }
}

function refusal(image: { readonly file: string; readonly driver: string }, why: string, advice?: string): VdiskError {
  const { file, driver } = image
  return new VdiskError('REFUSED', { message: `Cannot create this ${driver} image: ${why}`, where: { file }, advice })
}
