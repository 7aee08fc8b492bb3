import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { startDaemon, unmountAt } from '../../fuse/daemon.ts'
import {
  checkImage,
  compareDisks,
  convertDisk,
  finish,
  formatSize,
  inspectChain,
  isVdiskError,
  mapDisk,
  mergeImage,
  openDisk,
} from '../../lib/index.ts'
import { defineCommand, EXIT } from '../command.ts'
import type { Output } from '../output.ts'

const IMAGES = ['base.vhdx', 'monday.avhdx', 'tuesday.avhdx'] as const
/** Behind the file system on the bundled disk nobody's data lies: there the tour writes. */
const FREE = 60 << 20
const NOTE = Buffer.from('Wednesday: a visitor came by.\n')
const COLUMNS = 64

export const command = defineCommand({
  usage: '',
  describe:
    'A short guided tour on a bundled chain of three VHDX files: what it is, that it is sound, where its data lies, the\ndisk mounted and written to, the layers merged, the result verified. It works on copies in a temporary folder.',
  examples: [['vdisk tour', 'takes a few seconds, leaves nothing behind']],
  options: (yargs) => yargs,
  async run({ out }) {
    const tour = new Tour(out, fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-tour-')))
    try {
      await tour.run()
      return EXIT.ok
    } finally {
      await tour.clearAway()
    }
  },
})

class Tour {
  private readonly out: Output
  private readonly folder: string
  private readonly steps: { title: string; result: unknown }[] = []
  private mounted: string | undefined

  constructor(out: Output, folder: string) {
    this.out = out
    this.folder = folder
  }

  async run(): Promise<void> {
    for (const name of IMAGES)
      writeSparse(this.at(name), gunzipSync(fs.readFileSync(path.join(bundled(), `${name}.gz`))))
    this.out.line(`A disk in three layers, unpacked into ${this.folder}: a base, and what Monday and Tuesday changed.`)
    await this.whatItIs()
    await this.whereDataLies()
    await this.whetherItIsSound()
    await this.whatIfTheBaseChanges()
    await this.mountAndWrite()
    await this.merge()
    this.out.document({ tour: this.steps })
    this.out.line()
    this.out.line('That was all. Now your own files: vdisk info IMAGE --chain, vdisk --help')
  }

  /** Leaves nothing behind. */
  async clearAway(): Promise<void> {
    if (this.mounted !== undefined) await unmountAt(this.mounted)
    fs.rmSync(this.folder, { recursive: true, force: true })
  }

  private async whatItIs(): Promise<void> {
    this.step('What the chain is', 'vdisk info tuesday.avhdx --chain')
    const layers = await inspectChain(this.at('tuesday.avhdx'))
    for (const { name, format, occupied, identity, link } of layers.toReversed()) {
      this.say(
        `${this.out.paint('bold', path.basename(name).padEnd(15))} ${format}, ${formatSize(occupied as number)} on medium, content ${identity?.value.slice(0, 8)}`,
      )
      if (link) this.say(`  ${this.out.paint('green', link.level)}: ${link.message}`)
    }
    this.done(layers.map(({ name, link }) => ({ name: path.basename(name), link: link?.level })))
  }

  private async whereDataLies(): Promise<void> {
    this.step('Where its data lies', 'vdisk map tuesday.avhdx')
    await using disk = await openDisk(this.at('tuesday.avhdx'))
    const bytes = [0, 0, 0]
    const columns = Array.from({ length: COLUMNS }, () => [0, 0, 0])
    for await (const { offset, length, kind, depth } of mapDisk(disk.chain)) {
      if (kind === 'zero' || depth === undefined) continue
      bytes[depth] = (bytes[depth] as number) + length
      for (const [i, column] of columns.entries()) {
        const [start, end] = [(i * disk.size) / COLUMNS, ((i + 1) * disk.size) / COLUMNS]
        column[depth] =
          (column[depth] as number) + Math.max(0, Math.min(end, offset + length) - Math.max(start, offset))
      }
    }
    this.say(`|${columns.map((column) => this.mostly(column)).join('')}|  ${formatSize(disk.size)}`)
    for (const [depth, name] of IMAGES.entries())
      this.say(`${depth}  ${name.padEnd(15)} ${formatSize(bytes[depth] as number)} are read from here`)
    this.done({ bytes })
  }

  private async whetherItIsSound(): Promise<void> {
    this.step('That it is sound', 'vdisk check tuesday.avhdx --chain')
    const { counts, checked } = await finish(checkImage(this.at('tuesday.avhdx'), { chain: true }))
    this.say(
      counts.error + counts.leak === 0
        ? `No errors in ${checked.length} layers and the links between them.`
        : `${counts.error} errors, ${counts.leak} leaks`,
    )
    this.done(counts)
  }

  private async whatIfTheBaseChanges(): Promise<void> {
    this.step('What if somebody writes to the base?', 'on copies')
    const folder = this.at('changed')
    fs.mkdirSync(folder)
    for (const name of IMAGES) fs.copyFileSync(this.at(name), path.join(folder, name))
    {
      await using base = await openDisk(path.join(folder, 'base.vhdx'), { writable: true })
      await base.write(0, NOTE)
    }
    try {
      await (await openDisk(path.join(folder, 'tuesday.avhdx'))).close()
      this.done({ noticed: false })
    } catch (error) {
      if (!isVdiskError(error, 'PARENT_MISMATCH')) throw error
      this.say(`${this.out.paint('red', 'noticed')}: ${error.message.replaceAll(`${folder}${path.sep}`, '')}`)
      this.done({ noticed: true })
    }
  }

  private async mountAndWrite(): Promise<void> {
    const [image, mountpoint] = [this.at('tuesday.avhdx'), this.at('disk')]
    this.step('The disk as a file, to read and to write', 'vdisk mount tuesday.avhdx disk')
    fs.mkdirSync(mountpoint)
    try {
      await startDaemon({ images: [image], mountpoint })
      this.mounted = mountpoint
      const disk = path.join(mountpoint, 'tuesday.raw')
      this.say(`${path.relative(this.folder, disk)} is the disk: ${formatSize(fs.statSync(disk).size)}`)
      const file = fs.openSync(disk, 'r+')
      fs.writeSync(file, NOTE, 0, NOTE.length, FREE)
      fs.fsyncSync(file)
      fs.closeSync(file)
      await unmountAt(mountpoint)
      this.mounted = undefined
      this.say(`Written into it, unmounted: "${NOTE.toString().trim()}"`)
      this.done({ mounted: true })
    } catch (error) {
      if (!isVdiskError(error)) throw error
      // No FUSE on this machine, or not for this user: the same write without a mount.
      this.say(`Not here: ${error.message}`)
      if (error.advice) this.say(`  ${error.advice}`)
      await using disk = await openDisk(image, { writable: true })
      await disk.write(FREE, NOTE)
      this.say('Written through the library instead.')
      this.done({ mounted: false })
    }
    await using disk = await openDisk(image)
    const back = Buffer.alloc(NOTE.length)
    await disk.read(FREE, back)
    this.say(back.equals(NOTE) ? 'It reads back from the image.' : 'It does NOT read back from the image.')
  }

  private async merge(): Promise<void> {
    this.step('Three layers become one', 'vdisk merge tuesday.avhdx --into base.vhdx --delete')
    {
      await using before = await openDisk(this.at('tuesday.avhdx'))
      await finish(convertDisk(before.chain, this.at('before.qcow2'), { format: 'qcow2' }))
    }
    const merged = await finish(mergeImage(this.at('tuesday.avhdx'), { into: this.at('base.vhdx'), delete: true }))
    this.say(`${formatSize(merged.bytes)} went down into base.vhdx; the other files are gone.`)
    this.step('The result, verified', 'vdisk compare base.vhdx before.qcow2')
    await using after = await openDisk(this.at('base.vhdx'))
    await using copy = await openDisk(this.at('before.qcow2'))
    const { equal } = await finish(compareDisks(after.chain, copy.chain))
    const { counts } = await finish(checkImage(this.at('base.vhdx'), { locking: false }))
    this.say(equal ? 'It reads the same as the chain did, byte for byte.' : 'It does NOT read the same.')
    this.say(counts.error === 0 ? 'No errors were found in it.' : `${counts.error} errors were found in it.`)
    this.done({ equal, counts })
  }

  /** The layer that holds most of a piece of the disk. */
  private mostly(bytes: readonly number[]): string {
    const most = Math.max(...bytes)
    return most === 0 ? this.out.paint('dim', '.') : String(bytes.indexOf(most))
  }

  private at(name: string): string {
    return path.join(this.folder, name)
  }

  private step(title: string, line: string): void {
    this.steps.push({ title, result: undefined })
    this.out.line()
    this.out.line(`${this.out.paint('bold', `${this.steps.length}. ${title}`)}   ${this.out.paint('dim', line)}`)
  }

  private say(text: string): void {
    this.out.line(`   ${text}`)
  }

  private done(result: unknown): void {
    const step = this.steps.at(-1) as { result: unknown }
    step.result = result
  }
}

/** The images of the tour lie in the package, some folders above this file. */
function bundled(): string {
  for (let folder = path.dirname(fileURLToPath(import.meta.url)); ; folder = path.dirname(folder)) {
    const images = path.join(folder, 'testdata', 'tour')
    if (fs.existsSync(images)) return images
    if (folder === path.dirname(folder)) throw new Error('The images of the tour are missing from this installation')
  }
}

/** As it was before it was packed: without room for zeros. */
function writeSparse(file: string, bytes: Buffer): void {
  const fd = fs.openSync(file, 'w')
  const zeros = Buffer.alloc(65536)
  fs.ftruncateSync(fd, bytes.length)
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const part = bytes.subarray(at, at + zeros.length)
    if (!part.equals(zeros.subarray(0, part.length))) fs.writeSync(fd, part, 0, part.length, at)
  }
  fs.closeSync(fd)
}
