import type { Keeper } from '../contracts/keeper.ts'
import type { Io } from '../io/io.ts'

/** Those who keep what one disk held at some moment. */
export class Keepers {
  /** replaced, never changed: a change that is being told of is told to those who were there when it began */
  private all: readonly Keeper[] = []

  /** Whether there is anybody to be told. */
  get any(): boolean {
    return this.all.length > 0
  }

  add(...keepers: readonly Keeper[]): void {
    this.all = [...this.all, ...keepers]
  }

  /** The range is about to change. */
  *keep(offset: number, length: number): Io<void> {
    if (this.all.some(({ ended }) => ended)) this.all = this.all.filter(({ ended }) => !ended)
    for (const keeper of this.all) yield* keeper.keep(offset, length)
  }

  /** They let go of the disk, which may be closed now. @returns them, for whoever takes its place */
  *leave(): Io<readonly Keeper[]> {
    const leaving = this.all
    for (const keeper of leaving) yield* keeper.rest()
    this.all = []
    return leaving
  }

  lose(reason: string): void {
    for (const keeper of this.all) keeper.lose(reason)
    this.all = []
  }
}
