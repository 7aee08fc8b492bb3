import type { Argv } from 'yargs'
import type { KeptJournal, UndoWish } from '../lib/index.ts'
import { toSize } from './arguments.ts'
import { type Output, printable } from './output.ts'

/** Arguments of every verb that can be undone. */
export interface UndoArguments {
  undo: boolean
  undoLimit: string | undefined
}

export function undoOptions<T>(yargs: Argv<T>): Argv<T & UndoArguments> {
  return yargs
    .option('undo', {
      type: 'boolean',
      default: true,
      describe: 'keep a journal beside the image, by which vdisk undo brings back what was; --no-undo: none',
      group: 'Undo:',
    })
    .option('undo-limit', {
      type: 'string',
      describe: 'size that the journal may have, default 64M',
      group: 'Undo:',
    }) as unknown as Argv<T & UndoArguments>
}

/**
 * Runs a verb that can be undone.
 *
 * @param work is given the wish to undo, for the library
 * @returns what the verb answers, and its journal; undefined: none was wanted, or nothing was changed
 */
export async function withUndo<T>(
  { image, undo, undoLimit }: UndoArguments & { image: string },
  out: Output,
  work: (undo: UndoWish | false) => Promise<T>,
): Promise<{ readonly result: T; readonly kept: KeptJournal | undefined }> {
  const limit = undoLimit === undefined ? undefined : toSize(undoLimit, '--undo-limit')
  let kept: KeptJournal | undefined
  const onKept = (journal: KeptJournal): void => {
    kept = journal
  }
  try {
    const result = await work(undo && { limit, onKept })
    return { result, kept }
  } catch (error) {
    if (kept) out.note(`what it has changed can be undone: vdisk undo ${printable(image)}`)
    throw error
  }
}

/** After the result: how to take it back. */
export function noteUndo(out: Output, image: string, kept: KeptJournal | undefined): void {
  if (kept) out.note(`to undo this: vdisk undo ${printable(image)}`)
}
