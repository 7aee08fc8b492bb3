import { formatChoice, parseChoice } from './choices.ts'
import type { Entry } from './crash-folder.ts'
import { type Choice, pendingAt } from './crash-state.ts'

/** All that is needed to have one crash again. */
export interface Reproducer {
  readonly seed: number
  readonly scene: string
  readonly operations: readonly string[]
  readonly crash: Choice
  /** a crash in the recovery from that crash */
  readonly again?: Choice | undefined
}

/** One line, for `npm run crash -- --replay '...'`. */
export function formatReproducer({ seed, scene, operations, crash, again }: Reproducer): string {
  const crashes = [crash, ...(again ? [again] : [])].map(formatChoice)
  return [seed, scene, operations.join(','), ...crashes].join('/')
}

export function parseReproducer(text: string): Reproducer {
  const [seed, scene, operations, crash, again] = text.split('/')
  if (seed === undefined || scene === undefined || operations === undefined || crash === undefined) {
    throw new TypeError(`"${text}" is no crash: SEED/SCENE/OPERATIONS/CRASH[/CRASH]`)
  }
  return {
    seed: Number(seed),
    scene,
    operations: operations.split(',').filter((name) => name !== ''),
    crash: parseChoice(crash),
    again: again === undefined ? undefined : parseChoice(again),
  }
}

/** What happened up to the crash, one line for each entry: certain, kept, torn or lost. */
export function describeCrash(log: readonly Entry[], choice: Choice): string {
  const pending = new Set(pendingAt(log, choice.end, choice.liedFlushes))
  const kept = new Map(choice.kept.map(({ index, pieces }) => [index, pieces]))
  return log
    .slice(0, choice.end)
    .map((entry, index) => {
      const pieces = kept.get(index)
      const fate = !pending.has(index)
        ? ''
        : !kept.has(index)
          ? ' LOST'
          : pieces
            ? ` kept, pieces ${pieces.join()} alone`
            : ' kept'
      return `  ${String(index).padStart(4)} ${describeEntry(entry)}${fate}`
    })
    .join('\n')
}

function describeEntry(entry: Entry): string {
  switch (entry.kind) {
    case 'write':
      return `write ${entry.bytes.length} bytes at ${entry.at} of file ${entry.file}`
    case 'punch':
      return `punch ${entry.length} bytes at ${entry.at} of file ${entry.file}`
    case 'truncate':
      return `truncate file ${entry.file} to ${entry.size}`
    case 'stamp':
      return `set the time of file ${entry.file}`
    case 'flush':
      return `flush file ${entry.file}`
    case 'names':
      return `names: ${entry.changes.map(([name, file]) => (file === undefined ? `no ${name}` : `${name} is file ${file}`)).join(', ')}`
    case 'flush folder':
      return `flush folder ${entry.folder}`
    case 'mark':
      return `-- ${entry.text}`
  }
}
