import path from 'node:path'
import { askHolder } from '../../fuse/control/control-client.ts'
import {
  type ChainLayerInfo,
  type DiskContent,
  formatSize,
  inspectChain,
  inspectImage,
  inspectPartitions,
  type LayerInfo,
} from '../../lib/index.ts'
import { readOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printContent } from '../disk-content.ts'
import { fullSize, type Output, printable, type Style } from '../output.ts'
import { UsageError } from '../usage-error.ts'

export const command = defineCommand({
  usage: '<image>',
  describe:
    'Tells what an image is. Only the file itself is opened, and of it only metadata; with --chain all its\nparents too, with the verdict on each link; with --partitions the disk is read, and told what it holds.\nIf it is mounted, its server tells.',
  examples: [
    ['vdisk info server.qcow2', 'format, sizes, parent, snapshots, bitmaps, identity'],
    ['vdisk info server.avhdx --chain', 'every layer down to the base, and whether each belongs to the next'],
    ['vdisk info server.qcow2 --partitions', 'the partition table of the disk, and the file system of each partition'],
    ['vdisk info server.qcow2 --salvage', 'of an image that does not open, without what is damaged in it'],
    ['vdisk info server.qcow2 --json', 'the same for programs'],
  ],
  options: (yargs) =>
    readOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .option('chain', { type: 'boolean', default: false, describe: 'open and judge all parents' })
      .option('partitions', { type: 'boolean', default: false, describe: 'what the disk holds' }),
  async run({ args, out }) {
    const options = toOpenOptions(args)
    if (args.partitions && args.chain) {
      throw new UsageError(
        'Cannot tell of both --chain and --partitions: they exclude each other',
        'Ask for one after the other: --chain tells of the images, --partitions of the disk in them.',
      )
    }
    if (args.partitions) {
      const held = await askHolder<DiskContent>(args.image, 'partitions')
      const content = held ?? (await inspectPartitions(args.image, options))
      out.document({ image: args.image, ...content })
      printContent(out, args.image, content)
      return EXIT.ok
    }
    const held = await askHolder<HeldInfo>(args.image, 'info')
    if (!args.chain) {
      const info = held ? layerOf(held, args.image) : await inspectImage(args.image, options)
      out.document({ image: info, mounted: held?.mounted })
      printLayer(out, info)
      if (held) printMount(out, held)
      if (info.format === 'raw' && args.sourceFormat === undefined) {
        out.note('its content is of no format that vdisk knows: so it is taken for raw, as any file could be')
      }
      return EXIT.ok
    }
    const layers = held?.layers ?? (await inspectChain(args.image, options))
    out.document({ layers, mounted: held?.mounted })
    printChain(out, layers)
    if (held) printMount(out, held)
    return layers[0]?.broken ? EXIT.failed : EXIT.ok
  },
})

/** What the server of a mount tells of a disk that is mounted. */
interface HeldInfo {
  readonly mounted: { readonly mountpoint: string; readonly disk: string; readonly pid: number; readonly mode: string }
  readonly layers: readonly ChainLayerInfo[]
}

/** The layer that was named: with an overlay, the image itself is not the top. */
function layerOf({ layers }: HeldInfo, given: string): LayerInfo {
  const file = path.resolve(given)
  return (layers.find(({ name }) => path.resolve(name) === file) ?? layers.at(-1)) as LayerInfo
}

function printMount(out: Output, { mounted }: HeldInfo): void {
  const { disk, pid, mode } = mounted
  out.line(`${out.paint('dim', 'mounted')}   ${printable(disk)}, ${mode}, by process ${pid}`)
}

function printLayer(out: Output, info: LayerInfo): void {
  out.pairs([
    ['image', info.name],
    ['format', `${info.format}${info.parent ? ', child of another image' : ''}`],
    ['packed', info.wrapping && wrappingText(info.wrapping)],
    ['disk size', fullSize(info.size)],
    [
      'on medium',
      info.occupied === undefined
        ? undefined
        : `${formatSize(info.occupied)} (file length ${formatSize(info.fileSize)})`,
    ],
    ['granule', formatSize(info.granularity)],
    [
      'identity',
      info.identity &&
        `${info.identity.value}${info.identity.current ? '' : ' (out of date: another program has written since)'}`,
    ],
    ['parent', info.parent && parentText(info)],
    ['expects', info.parent && info.parent.expects.length > 0 ? info.parent.expects.join(' or ') : undefined],
    ['accepted', info.parent?.replaced && `in place of ${info.parent.replaced}`],
    ['link record', info.linkRecord && recordText(info.linkRecord)],
    ['merging', info.parent?.merging ? 'a merge into the parent was begun; run it again to finish it' : undefined],
    ['merged', info.merged && `into ${info.merged.into} on ${dateOf(info.merged.at)}: this file is history`],
    ['in use', info.inUse ? 'another program has it open for writing; what is told here may change' : undefined],
    ...Object.entries(info.details).map(([name, value]) => [camelToWords(name), detailText(value)] as const),
  ])
  for (const { message } of info.leftOut) out.line(`${out.paint('yellow', 'left out')}  ${printable(message)}`)
  for (const snapshot of info.snapshots) {
    out.line(
      `${out.paint('dim', 'snapshot')}  ${snapshot.id}  ${printable(snapshot.name)}  ${dateOf(snapshot.created)}  ${formatSize(snapshot.diskSize)}`,
    )
  }
  for (const bitmap of info.bitmaps) {
    const state = bitmap.consistent ? (bitmap.enabled ? 'recording' : 'not recording') : 'not saved by its last writer'
    out.line(
      `${out.paint('dim', 'bitmap')}    ${printable(bitmap.name)}  every ${formatSize(bitmap.granularity)}  ${state}`,
    )
  }
}

function wrappingText({ container, member }: NonNullable<LayerInfo['wrapping']>): string {
  return member === undefined ? container : `${container}, "${member}"`
}

const LEVEL_STYLE: Record<string, Style> = {
  verified: 'green',
  consistent: 'green',
  unverifiable: 'yellow',
  mismatch: 'red',
}

/** Top first, as people think of a stack: what is written now, and what it stands on. */
function printChain(out: Output, layers: readonly ChainLayerInfo[]): void {
  for (const layer of layers.toReversed()) {
    const room = layer.occupied === undefined ? '' : `, ${formatSize(layer.occupied)} on medium`
    out.line(
      `${out.paint('bold', `${layer.depth}`)}  ${printable(layer.name)}  ${out.paint('dim', `${layer.format}${layer.wrapping ? ` in ${wrappingText(layer.wrapping)}` : ''}, disk of ${formatSize(layer.size)}${room}`)}`,
    )
    if (layer.identity) {
      const state = layer.identity.current
        ? ''
        : ` ${out.paint('red', 'out of date: another program has written since')}`
      out.line(`   identity ${layer.identity.value}${state}`)
    }
    if (layer.merged)
      out.line(
        `   ${out.paint('yellow', `merged into ${printable(layer.merged.into)} on ${dateOf(layer.merged.at)}: this file is history`)}`,
      )
    for (const { message } of layer.leftOut) out.line(`   ${out.paint('yellow', 'left out')}: ${printable(message)}`)
    if (layer.broken) {
      out.line(`   ${out.paint('dim', '\u2193')}  ${out.paint('red', 'broken')}: ${printable(layer.broken.message)}`)
      if (layer.broken.advice) out.line(`      ${printable(layer.broken.advice)}`)
    }
    if (!layer.link) continue
    const { level, message, expected, found } = layer.link
    out.line(`   ${out.paint('dim', '\u2193')}  ${out.paint(LEVEL_STYLE[level] ?? 'yellow', level)}: ${message}`)
    if (level === 'mismatch' && found !== expected)
      out.line(`      it is ${found ?? 'without identity'}, expected ${expected ?? 'none'}`)
  }
}

function parentText(info: LayerInfo): string {
  const { references = [], format } = info.parent ?? {}
  return `${references.join(' or ') || '(not named)'}${format ? ` (${format})` : ' (format not named)'}`
}

function recordText({ file, state }: NonNullable<LayerInfo['linkRecord']>): string {
  const says = {
    holds: 'holds what the format has no place for; keep it beside the image',
    stale: 'says nothing: it speaks of another link than the image itself has now',
    damaged: 'says nothing: it cannot be read',
  }
  return `${path.basename(file)}, beside the image: ${says[state]}`
}

function camelToWords(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
}

function detailText(value: LayerInfo['details'][string]): string | undefined {
  if (value === undefined || value === false || value === null) return undefined
  if (value === true) return 'yes'
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

function dateOf(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace('T', ' ').slice(0, 19)
}
