import path from 'node:path'
import { expect } from 'vitest'
import { type BackedUp, type BackupOptions, backUp, backUpInto } from '../../lib/backup/backup.ts'
import { listBackups } from '../../lib/backup/list.ts'
import { restoreBackup } from '../../lib/backup/restore.ts'
import { openSource, seeDisk } from '../../lib/backup/source.ts'
import { type Verified, verifyBackups } from '../../lib/backup/verify.ts'
import { createDisk, type Disk, enableTracking, finish, openDisk, type Progress } from '../../lib/index.ts'
import { refusal } from './refusal.ts'
import { scratchFolder } from './temp.ts'

/** A tracked disk, and a folder for its backups. */
export class Scene {
  readonly home = scratchFolder()
  readonly folder = path.join(this.home, 'backups')
  readonly format: string
  readonly file: string

  constructor(format: string) {
    this.format = format
    this.file = path.join(this.home, `disk.${format}`)
  }

  static async make(format: string, size: number, tracked = true): Promise<Scene> {
    const scene = new Scene(format)
    await (await createDisk(scene.file, { format, size })).close()
    if (tracked) await enableTracking(scene.file, { format })
    return scene
  }

  async write(offset: number, length: number, byte: number): Promise<void> {
    await this.change((disk) => disk.write(offset, new Uint8Array(length).fill(byte)))
  }

  async change(work: (disk: Disk) => Promise<void>): Promise<void> {
    await using disk = await openDisk(this.file, { writable: true, format: this.format })
    await work(disk)
  }

  async backUp(
    options: BackupOptions & { onProgress?: (progress: Progress) => void; into?: string } = {},
  ): Promise<BackedUp> {
    const source = await openSource(this.file, { format: this.format })
    try {
      const { into, onProgress } = options
      const job = into === undefined ? backUp(source, this.folder, options) : backUpInto(source, into, options)
      return await finish(job, onProgress)
    } finally {
      await source.close()
    }
  }

  async verify(withSource = true, options: { quick?: boolean; backup?: number } = {}): Promise<Verified> {
    const source = withSource ? await seeDisk(this.file, { format: this.format }) : undefined
    try {
      return await finish(verifyBackups(this.folder, source, options))
    } finally {
      await source?.close()
    }
  }

  async content(): Promise<Buffer> {
    return await contentOf(this.file, this.format)
  }
}

export async function contentOf(file: string, format?: string): Promise<Buffer> {
  await using disk = await openDisk(file, { format, allow: [path.dirname(file), path.dirname(path.dirname(file))] })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

/** What backup `number` reads as when it is restored. */
export async function restored(scene: Scene, number: number): Promise<Buffer> {
  const out = path.join(scene.home, `restored-${number}.raw`)
  await finish(restoreBackup(scene.folder, out, { backup: number, format: 'raw', replace: true }))
  return await contentOf(out, 'raw')
}

export async function expectRestored(scene: Scene, truth: ReadonlyMap<number, Buffer>): Promise<void> {
  const { backups } = await listBackups(scene.folder)
  for (const { number } of backups) {
    const [found, wanted] = [await restored(scene, number), truth.get(number) as Buffer]
    expect(found.length, `size of backup ${number}`).toBe(wanted.length)
    expect(found.equals(wanted), `content of backup ${number}`).toBe(true)
  }
}

/** Cancels a backup when it tells how far it is for the n-th time, of those times that count. */
export async function stopAfter(
  scene: Scene,
  steps: number,
  options: BackupOptions,
  counts: (progress: Progress) => boolean = () => true,
): Promise<void> {
  const controller = new AbortController()
  let seen = 0
  const onProgress = (progress: Progress): void => {
    if (counts(progress) && ++seen === steps) controller.abort()
  }
  const { code } = await refusal(() => scene.backUp({ ...options, signal: controller.signal, onProgress }))
  expect(code).toBe('CANCELLED')
}
