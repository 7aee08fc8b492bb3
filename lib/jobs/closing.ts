import { type Io, promised } from '../io/io.ts'

/** Something open: a chain, or a layer. */
interface Opened {
  close(): Io<void>
}

/** Does something with what is open, and closes it in any case. @throws what failed first */
export async function closing<T>(opened: Opened, work: () => Promise<T>): Promise<T> {
  let result: T
  try {
    result = await work()
  } catch (error) {
    return await closeAll([opened], error)
  }
  await promised(opened.close())
  return result
}

/**
 * Closes everything, even if that fails for one of them.
 *
 * @param before what failed already, which is thrown again; undefined: nothing
 * @throws what failed first
 */
export async function closeAll(opened: readonly Opened[], before: unknown): Promise<never>
export async function closeAll(opened: readonly Opened[]): Promise<void>
export async function closeAll(opened: readonly Opened[], before?: unknown): Promise<void> {
  let failure = before
  for (const one of opened) {
    try {
      await promised(one.close())
    } catch (error) {
      failure ??= error
    }
  }
  if (failure !== undefined) throw failure
}
