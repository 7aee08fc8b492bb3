import type { Edit } from './edits.ts'
import type { Recipe } from './execution.ts'

/** Tries at most, so that a finding is told in a minute. */
const TRIES = 60

/**
 * Leaves out what a finding does not need: halves of its edits first, then ever smaller pieces.
 *
 * @param fails whether a recipe still leads there
 */
export async function minimised(recipe: Recipe, fails: (recipe: Recipe) => Promise<boolean>): Promise<Recipe> {
  let edits: readonly Edit[] = recipe.edits
  let tries = 0
  for (let piece = Math.ceil(edits.length / 2); piece >= 1; ) {
    let shorter: readonly Edit[] | undefined
    for (let at = 0; at < edits.length && tries < TRIES && !shorter; at += piece) {
      const without = [...edits.slice(0, at), ...edits.slice(at + piece)]
      tries++
      if (await fails({ ...recipe, edits: without })) shorter = without
    }
    if (shorter) edits = shorter
    else piece = piece === 1 ? 0 : Math.ceil(piece / 2)
  }
  return { ...recipe, edits }
}
