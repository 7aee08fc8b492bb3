import { expect, test } from 'vitest'
import { Arrivals } from '../../../fuse/doors/arrivals.ts'
import type { Sys } from '../../../lib/io/sys.ts'

test('listens before it looks once more, and does not sleep if something is there', async () => {
  const steps: string[] = []
  const native = { setNonBlocking: (_: number, signal: boolean) => steps.push(signal ? 'on' : 'off') && 0 }
  const arrivals = new Arrivals(3, native as unknown as Sys)
  const look = (nothing: boolean) => () => steps.push('look') > 0 && nothing
  await arrivals.wait(look(false))
  expect(steps).toEqual(['off', 'on', 'look', 'off'])

  steps.length = 0
  const waiting = arrivals.wait(look(true)).then(() => steps.push('awake'))
  await new Promise((resolve) => setImmediate(resolve))
  expect(steps).toEqual(['on', 'look'])
  process.emit('SIGIO', 'SIGIO')
  await waiting
  expect(steps).toEqual(['on', 'look', 'off', 'awake'])

  // The signal ends a process that has no handler for it: so it is off before the handler goes.
  expect(process.listenerCount('SIGIO')).toBe(1)
  arrivals.close()
  expect(steps.at(-1)).toBe('off')
  expect(process.listenerCount('SIGIO')).toBe(0)
})
