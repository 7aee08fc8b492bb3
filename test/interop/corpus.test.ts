import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { CheckReport } from '../../lib/contracts/check-report.ts'
import { drivers } from '../../lib/formats/registry.ts'
import { type Disk, openDisk } from '../../lib/index.ts'
import { promised } from '../../lib/io/io.ts'
import { openAlone } from '../../lib/jobs/images.ts'
import { corpusEntries, corpusMissing, REFUSED_FIRST, restored } from '../support/corpus.ts'
import { tempFolder } from '../support/temp.ts'

const PIECE = 1 << 20
/** Larger disks are compared by the digest of what is not zero. */
const HASHED_WHOLE = 1 << 30

const scratch = tempFolder('corpus')

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

describe.skipIf(corpusMissing)(`images of other makers${corpusMissing ? ` (skipped: ${corpusMissing})` : ''}`, () => {
  test.each(corpusEntries.filter((entry) => entry.expect.startsWith('open')))(
    '$id reads as others read it',
    async (entry) => {
      const file = restored(entry, scratch)
      const refused = REFUSED_FIRST.get(entry.id)
      if (refused) await expect(openDisk(file)).rejects.toThrow(refused)
      await using disk = await openDisk(file, { salvage: refused !== undefined })
      expect(disk.size).toBe(entry.virtual_size)
      if (entry.sparse_digest) expect(await sparseDigest(disk)).toBe(entry.sparse_digest)
      if (entry.sha256_guest && disk.size <= HASHED_WHOLE) expect(await wholeDigest(disk)).toBe(entry.sha256_guest)
      if (!refused) expect((await findingsOf(file, entry.format)).counts.error).toBe(0)
      fs.rmSync(path.dirname(file), { recursive: true })
    },
  )

  test.each(corpusEntries.filter((entry) => entry.expect === 'open-after-replay'))(
    '$id keeps its content when its log is replayed on the medium',
    async (entry) => {
      const file = restored(entry, scratch)
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

  test.each(corpusEntries.filter((entry) => entry.expect === 'refuse-naming-what-is-missing'))(
    '$id says what is missing',
    async (entry) => {
      await expect(openDisk(restored(entry, scratch))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
    },
  )

  test.each(corpusEntries.filter((entry) => entry.expect === 'check-finds-then-repair'))(
    '$id is damaged, and the check says so',
    async (entry) => {
      const { counts } = await findingsOf(restored(entry, scratch), entry.format)
      expect(counts.error + counts.leak + counts.warning).toBeGreaterThan(0)
    },
  )
})
