import { setImmediate as breathe } from 'node:timers/promises'
import { formatSize, mapDisk, openDisk } from '../../lib/index.ts'
import { openOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { errorContent, printable, SCHEMA_VERSION } from '../output.ts'

export const command = defineCommand({
  usage: '<image>',
  describe: 'Tells where the data of a disk lies: run by run, which layer holds it, and where in which file.',
  examples: [
    ['vdisk map server.qcow2', 'a line for each run: offset, length, kind, layer, file and place'],
    ['vdisk map server.qcow2 --json', 'one document; written as it is found, so large disks need no memory'],
    ['vdisk map server.qcow2 --data', 'leave out what reads as zero'],
  ],
  options: (yargs) =>
    openOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .option('data', { type: 'boolean', default: false, describe: 'only runs that hold data' }),
  async run({ args, out, signal }) {
    const disk = await openDisk(args.image, toOpenOptions(args))
    try {
      for (const note of disk.notes) out.note(printable(note))
      let first = true
      let held = 0
      let runs = 0
      // The document is printed piece by piece: a disk may have millions of runs.
      out.begun = out.json
      if (out.json)
        await write(
          `{"schemaVersion":${SCHEMA_VERSION},"image":${JSON.stringify(args.image)},"size":${disk.size},"extents":[`,
        )
      else out.line(out.paint('dim', `${'offset'.padStart(16)} ${'length'.padStart(16)}  kind    layer`))
      for await (const extent of mapDisk(disk.chain, { signal })) {
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
      else out.line(out.paint('dim', `${formatSize(held)} of ${formatSize(disk.size)} hold data`))
      return EXIT.ok
    } catch (error) {
      // What has been printed stays; the document ends with what went wrong.
      if (out.begun) await write(`\n],"error":${JSON.stringify(errorContent(error))}}\n`)
      throw error
    } finally {
      await disk.close()
    }
  },
})

function layerText(extent: { depth: number | undefined; file: string | undefined; at: number | undefined }): string {
  if (extent.depth === undefined) return '-'
  return extent.file === undefined ? String(extent.depth) : `${extent.depth}  ${printable(extent.file)} at ${extent.at}`
}

/** Waits where the reader is slower than the walk. */
async function write(text: string): Promise<void> {
  if (!process.stdout.write(text)) await new Promise((resolve) => process.stdout.once('drain', resolve))
}
