import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import { drivers } from '../../lib/formats/registry.ts'
import { type Disk, openDisk } from '../../lib/index.ts'
import { promised } from '../../lib/io/io.ts'
import { openAlone } from '../../lib/jobs/images.ts'
import { tempFolder } from '../support/temp.ts'

/**
 * Real images of other makers, and what several programs say they contain.
 *
 * They are no part of the project: the folder is named by VDISK_CORPUS, and its README says what the manifest means.
 */

interface Entry {
  readonly id: string
  readonly format: string
  readonly expect: string
  readonly open: string
  readonly virtual_size: number
  readonly sha256_guest: string | null
  readonly sparse_digest?: string | null
  readonly members: readonly { readonly stored: string; readonly name: string; readonly compression: string | null }[]
}

const PIECE = 1 << 20
/** Larger disks are compared by the digest of what is not zero. */
const HASHED_WHOLE = 1 << 30

const folder = process.env.VDISK_CORPUS
const missing = folder && fs.existsSync(path.join(folder, 'manifest.json')) ? undefined : 'VDISK_CORPUS names no folder'
const entries: readonly Entry[] = missing
  ? []
  : (JSON.parse(fs.readFileSync(path.join(folder as string, 'manifest.json'), 'utf8')) as Entry[])
const known = entries.filter(({ format }) => drivers.some(({ name }) => name === format))
const scratch = tempFolder('corpus')

const UNPACK: Readonly<Record<string, string>> = { gz: 'gzip', bz2: 'bzip2', xz: 'xz' }

/** Restores the members of an entry in a folder of its own. @returns the path of the one to open */
function restored(entry: Entry): string {
  const own = path.join(scratch, entry.id.replaceAll('/', '-'))
  fs.mkdirSync(own, { recursive: true })
  for (const { stored, name, compression } of entry.members) {
    const source = path.join(folder as string, stored)
    const tool = UNPACK[compression ?? '']
    const target = path.join(own, name)
    fs.mkdirSync(path.dirname(target), { recursive: true })
    if (!tool) fs.copyFileSync(source, target)
    else {
      const output = fs.openSync(target, 'w')
      const { status } = spawnSync(tool, ['-dc', source], { stdio: ['ignore', output, 'inherit'] })
      fs.closeSync(output)
      if (status !== 0) throw new Error(`${tool} cannot unpack ${source}`)
    }
  }
  return path.join(own, entry.open)
}

/** SHA-256 over the lines "OFFSET SHA256" of each piece of 1 MiB that is not all zeros. */
async function sparseDigest(disk: Disk): Promise<string> {
  const digest = createHash('sha256')
  const piece = Buffer.alloc(PIECE)
  let next = 0
  for await (const extent of disk.extents()) {
    if (extent.kind === 'zero') continue
    const end = Math.min(disk.size, extent.offset + extent.length)
    for (let at = Math.max(next, extent.offset - (extent.offset % PIECE)); at < end; at += PIECE) {
      const part = piece.subarray(0, Math.min(PIECE, disk.size - at))
      await disk.read(at, part)
      next = at + PIECE
      if (part.every((byte) => byte === 0)) continue
      digest.update(`${at} ${createHash('sha256').update(part).digest('hex')}\n`)
    }
  }
  return digest.digest('hex')
}

async function wholeDigest(disk: Disk): Promise<string> {
  const digest = createHash('sha256')
  for await (const chunk of disk.createReadStream()) digest.update(chunk as Uint8Array)
  return digest.digest('hex')
}

async function findingsOf(file: string, format: string): Promise<CheckReport> {
  const layer = await promised(openAlone(file, 'read', { format }))
  const report = new CheckReport()
  const driver = drivers.find(({ name }) => name === format)
  if (driver) await promised(driver.check(layer, report))
  await promised(layer.close())
  return report
}

describe.skipIf(missing)(`images of other makers${missing ? ` (skipped: ${missing})` : ''}`, () => {
  test.each(known.filter((entry) => entry.expect.startsWith('open')))('$id reads as others read it', async (entry) => {
    const file = restored(entry)
    await using disk = await openDisk(file)
    expect(disk.size).toBe(entry.virtual_size)
    if (entry.sparse_digest) expect(await sparseDigest(disk)).toBe(entry.sparse_digest)
    if (entry.sha256_guest && disk.size <= HASHED_WHOLE) expect(await wholeDigest(disk)).toBe(entry.sha256_guest)
    expect((await findingsOf(file, entry.format)).counts.error).toBe(0)
    fs.rmSync(path.dirname(file), { recursive: true })
  })

  test.each(known.filter((entry) => entry.expect === 'open-after-replay'))(
    '$id keeps its content when its log is replayed on the medium',
    async (entry) => {
      const file = restored(entry)
      const before = fs.readFileSync(file)
      await (await openDisk(file)).close()
      expect(Buffer.compare(fs.readFileSync(file), before)).toBe(0)
      await (await openDisk(file, { writable: true })).close()
      await using disk = await openDisk(file)
      expect(await sparseDigest(disk)).toBe(entry.sparse_digest)
      // The makers left gaps between their blocks; nothing else is to be said of them, and no log any more.
      const { findings } = await findingsOf(file, entry.format)
      expect(findings.filter(({ code }) => code !== 'ROOM_UNUSED')).toEqual([])
    },
  )

  test.each(known.filter((entry) => entry.expect === 'refuse-naming-what-is-missing'))(
    '$id says what is missing',
    async (entry) => {
      await expect(openDisk(restored(entry))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
    },
  )

  test.each(known.filter((entry) => entry.expect === 'check-finds-then-repair'))(
    '$id is damaged, and the check says so',
    async (entry) => {
      const { counts } = await findingsOf(restored(entry), entry.format)
      expect(counts.error + counts.leak + counts.warning).toBeGreaterThan(0)
    },
  )
})
