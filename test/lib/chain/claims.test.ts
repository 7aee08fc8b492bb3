import { describe, expect, test } from 'vitest'
import { Claims } from '../../../lib/chain/claims.ts'
import { breathe, promised } from '../../../lib/io/io.ts'

/** Lets everything run that can. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await promised(breathe())
}

describe('claims', () => {
  test('who wants all has its turn before those that came later, however busy it is', async () => {
    const claims = new Claims()
    const order: string[] = []
    const first = await promised(claims.take(0, 10))
    const all = promised(claims.take(0, Number.POSITIVE_INFINITY)).then((claim) => {
      order.push('all')
      return claim
    })
    const later = promised(claims.take(20, 30)).then((claim) => {
      order.push('later')
      return claim
    })
    await turns()
    expect(order).toEqual([])
    first.release()
    await turns()
    expect(order).toEqual(['all'])
    const claim = await all
    claim.release()
    const last = await later
    last.release()
    expect(order).toEqual(['all', 'later'])
  })

  test('ranges that do not meet do not wait for each other', async () => {
    const claims = new Claims()
    const held = [await promised(claims.take(0, 10)), await promised(claims.take(10, 20))]
    const waiting = claims.take(5, 6)
    expect(waiting.next().done).toBe(false)
    expect(claims.take(6, 7).next().done).toBe(false)
    expect(claims.take(20, 30).next().done).toBe(true)
    for (const claim of held) claim.release()
  })

  test('who gives up waiting holds up nobody', async () => {
    const claims = new Claims()
    const held = await promised(claims.take(0, 10))
    const waiting = claims.take(0, Number.POSITIVE_INFINITY)
    expect(waiting.next().done).toBe(false)
    const behind = promised(claims.take(20, 30))
    waiting.return(undefined as never)
    const claim = await behind
    claim.release()
    held.release()
  })
})
