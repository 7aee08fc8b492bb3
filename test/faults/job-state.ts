import type { Layer } from '../../lib/contracts/layer.ts'
import { checkImage, finish, openDisk } from '../../lib/index.ts'
import { at, type JobFiles, opening, type ScriptedJob } from './scripted-job.ts'
import type { Witness } from './witness.ts'

/**
 * A snapshot that was cut short leaves counts too high, and so flags that do not fit them; nothing is written wrongly for that.
 * And of a VHD whose size was changed the footer at the end counts, until its copy says the same.
 */
const HARMLESS = ['COPIED_FLAG_WRONG', 'FOOTERS_DIFFER']

/** What there is to see of an image. */
interface Portrait {
  readonly content: Uint8Array
  /** all that is told of it besides, in one line */
  readonly facts: string
}

/** What there is before a job, or after it. */
export interface State {
  readonly names: readonly string[]
  readonly portraits: ReadonlyMap<string, Portrait | undefined>
  /** what the job answered; undefined where it did not */
  readonly result: string | undefined
}

/** Opens and checks everything that is watched. @throws Error for damage */
export async function stateOf(job: ScriptedJob, files: JobFiles, result: string | undefined): Promise<State> {
  const portraits = new Map<string, Portrait | undefined>()
  for (const name of job.watched) portraits.set(name, files.look(at(name)) ? await portraitOf(name, files) : undefined)
  return { names: files.names(), portraits, result }
}

async function portraitOf(name: string, files: JobFiles): Promise<Portrait> {
  const { findings } = await finish(checkImage(at(name), { ...opening(files, name), chain: true }))
  const damage = findings.filter(({ severity, code }) => severity === 'error' && !HARMLESS.includes(code))
  if (damage.length > 0) throw new Error(`${name} is damaged: ${damage.map(({ message }) => message).join('; ')}`)
  const disk = await openDisk(at(name), opening(files, name))
  try {
    const content = new Uint8Array(disk.size)
    await disk.read(0, content)
    const top = disk.chain.layers.at(-1) as Layer
    const layers = disk.chain.layers.map((layer) => layer.name)
    const snapshots = top.snapshots?.list().map((snapshot) => snapshot.name)
    return { content, facts: JSON.stringify({ layers, snapshots, merged: top.merged?.into }) }
  } finally {
    await disk.close()
  }
}

/** What the image that has a witness holds before. */
export const startOf = (job: ScriptedJob, old: State): Uint8Array =>
  job.witnessed ? contentIn(old, job.witnessed) : new Uint8Array(0)

export const contentIn = ({ portraits }: State, name: string): Uint8Array =>
  portraits.get(name)?.content ?? new Uint8Array(0)

function equal(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a && b ? Buffer.compare(a, b) === 0 : a === b
}

export function same(a: State, b: State): boolean {
  return difference(a, b) === undefined
}

/** How two states differ, in words; undefined: they do not. */
export function difference(found: State, wanted: State): string | undefined {
  if (found.names.join() !== wanted.names.join()) return `there is ${found.names.join()}, not ${wanted.names.join()}`
  for (const [name, portrait] of wanted.portraits) {
    const other = found.portraits.get(name)
    if (!equal(other?.content, portrait?.content)) return `${name} holds something else`
    if (other?.facts !== portrait?.facts) return `${name} is ${other?.facts}, not ${portrait?.facts}`
  }
  if (found.result !== undefined && found.result !== wanted.result)
    return `it answers ${found.result}, not ${wanted.result}`
  return undefined
}

/** Each image is what it was before or what it is after; the one that has a witness, what that allows. @throws Error */
export function expectContents(
  { job, old, next }: { readonly job: ScriptedJob; readonly old: State; readonly next: State },
  state: State,
  witness: Witness | undefined,
): void {
  for (const [name, portrait] of state.portraits) {
    const found = portrait?.content
    if (witness && found && name === job.witnessed) {
      const complaint = witness.complaint(found)
      if (complaint) throw new Error(`${name}: ${complaint}`)
      continue
    }
    const either = [old, next].map(({ portraits }) => portraits.get(name)?.content)
    if (!either.some((content) => equal(content, found))) throw new Error(`${name} is neither as before nor as after`)
  }
}
