import { VdiskError } from '../errors.ts'

/** The error of a journal that cannot be what a verb wrote. */
export function corruptJournal(file: string, why: string, at: number): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot use the undo journal ${file}: ${why}`,
    where: { file, structure: 'undo journal', at, section: 'docs/undo-journal.md' },
    advice: 'Nothing was changed. What it could bring back is lost; to remove it: vdisk undo IMAGE --discard',
  })
}
