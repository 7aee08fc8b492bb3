import { expect, test } from 'vitest'
import type { Image } from '../../../lib/contracts/image.ts'
import { just, promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { Rehearsal } from '../../../lib/jobs/rehearsal.ts'

function holding(name: string, text: string): MemoryStore {
  const store = new MemoryStore(name)
  store.write(0, Buffer.from(text))
  return store
}

async function textOf(store: ByteStore): Promise<string> {
  const bytes = Buffer.alloc(await store.size())
  await store.read(0, bytes)
  return bytes.toString()
}

test('what is written in a rehearsal is seen in it, and in no file', async () => {
  const [own, extent] = [holding('disk', 'descriptor'), holding('extent', 'extent')]
  const asked: string[] = []
  const image: Image = {
    name: 'disk',
    store: own,
    neighbour: (reference, access) => {
      asked.push(`${reference} ${access}`)
      return just(extent)
    },
    takeOver: () => expect.fail('renames a file'),
    removeNeighbour: () => expect.fail('removes a file'),
  }
  const rehearsal = await promised(Rehearsal.of(image))
  await rehearsal.store.write(0, Buffer.from('DES'))
  const first = await promised(rehearsal.neighbour('extent', 'write'))
  await first.write(0, Buffer.from('EX'))
  await first.close()
  expect(await textOf(await promised(rehearsal.neighbour('extent', 'read')))).toBe('EXtent')
  const made = await promised(rehearsal.neighbour('new', 'create'))
  await made.write(0, Buffer.from('another'))
  await promised(rehearsal.takeOver('new'))
  expect(await textOf(rehearsal.store)).toBe('another')
  await rehearsal.close()
  expect([await textOf(own), await textOf(extent), asked]).toEqual(['descriptor', 'extent', ['extent read']])
})
