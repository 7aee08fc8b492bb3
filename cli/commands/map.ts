import { setImmediate as breathe } from 'node:timers/promises'
import { ask, assertOneImage, holderOf } from '../../fuse/control/control-client.ts'
import { formatSize, type MapExtent, mapDisk, type OpenOptions, openDisk } from '../../lib/index.ts'
import { readOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { errorContent, printable, SCHEMA_VERSION } from '../output.ts'
import { standardOutput } from '../streams.ts'

export const command = defineCommand({
  usage: '<image>',
  describe: 'Tells where the data of a disk lies: run by run, which layer holds it, and where in which file.',
  examples: [
    ['vdisk map server.qcow2', 'a line for each run: offset, length, kind, layer, file and place'],
    ['vdisk map server.qcow2 --json', 'one document; written as it is found, so large disks need no memory'],
    ['vdisk map server.qcow2 --data', 'leave out what reads as zero'],
  ],
  options: (yargs) =>
    readOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .option('data', { type: 'boolean', default: false, describe: 'only runs that hold data' }),
  async run({ args, out, signal }) {
    const source = (await heldMap(args.image)) ?? (await ownMap(args.image, { ...toOpenOptions(args), signal }))
    try {
      for (const note of source.notes) out.note(printable(note))
      let first = true
      let held = 0
      let runs = 0
      // The document is printed piece by piece: a disk may have millions of runs.
      out.begun = out.json
      if (out.json)
        await write(
          `{"schemaVersion":${SCHEMA_VERSION},"image":${JSON.stringify(args.image)},"size":${source.size},"extents":[`,
        )
      else out.line(out.paint('dim', `${'offset'.padStart(16)} ${'length'.padStart(16)}  kind    layer`))
      for await (const extent of source.extents) {
        signal.throwIfAborted()
        if (extent.kind !== 'zero') held += extent.length
        if (args.data && extent.kind === 'zero') continue
        if (out.json) await write(`${first ? '' : ','}\n${JSON.stringify(extent)}`)
        else
          await write(
            `${String(extent.offset).padStart(16)} ${String(extent.length).padStart(16)}  ${extent.kind.padEnd(6)}  ${layerText(extent)}\n`,
          )
        first = false
        // Metadata at hand comes without a wait; signals are only heard in one.
        if (++runs % 1024 === 0) await breathe()
      }
      if (out.json) await write('\n]}\n')
      else out.line(out.paint('dim', `${formatSize(held)} of ${formatSize(source.size)} hold data`))
      return EXIT.ok
    } catch (error) {
      // What has been printed stays; the document ends with what went wrong.
      if (out.begun) await write(`\n],"error":${JSON.stringify(errorContent(error))}}\n`)
      throw error
    } finally {
      await source.close()
    }
  },
})

/** A map, from wherever it comes. */
interface Source {
  readonly size: number
  readonly notes: readonly string[]
  readonly extents: AsyncIterable<MapExtent>
  close(): Promise<void>
}

async function ownMap(image: string, options: OpenOptions): Promise<Source> {
  const disk = await openDisk(image, options)
  const extents = mapDisk(disk.chain, { signal: options.signal })
  return { size: disk.size, notes: disk.notes, extents, close: () => disk.close() }
}

interface Piece {
  readonly size: number
  readonly extents: readonly MapExtent[]
  readonly next?: number
}

/** The map of a disk that is mounted, as its server tells it: piece by piece. */
async function heldMap(given: string): Promise<Source | undefined> {
  const held = holderOf(given)
  if (!held) return undefined
  const image = { record: held.record, image: assertOneImage(held, given) }
  const first = await ask<Piece>(image, 'map')
  async function* extents(): AsyncGenerator<MapExtent> {
    for (let piece = first; ; ) {
      yield* piece.extents
      if (piece.next === undefined) return
      piece = await ask<Piece>(image, 'map', { from: piece.next })
    }
  }
  return { size: first.size, notes: [], extents: extents(), close: async () => {} }
}

function layerText(extent: { depth: number | undefined; file: string | undefined; at: number | undefined }): string {
  if (extent.depth === undefined) return '-'
  return extent.file === undefined ? String(extent.depth) : `${extent.depth}  ${printable(extent.file)} at ${extent.at}`
}

/** Waits where the reader is slower than the walk. */
async function write(text: string): Promise<void> {
  if (!standardOutput().write(text)) await new Promise((resolve) => standardOutput().once('drain', resolve))
}
