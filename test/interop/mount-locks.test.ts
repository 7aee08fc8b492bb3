import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk, openDisk } from '../../lib/index.ts'
import { describeIf, MIB, makeImage, noise, useBench } from '../support/mount-suite.ts'
import { execute, must, until, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'
import { refusal } from '../support/refusal.ts'

const bench = useBench()
const missing =
  whyNoMounts() ??
  (process.env.VDISK_NO_NATIVE ? 'locks need native calls' : undefined) ??
  whyNoPrograms(
    { name: 'qemu-img', package: 'qemu-utils' },
    { name: 'qemu-io', package: 'qemu-utils' },
    { name: 'qemu-storage-daemon', package: 'qemu-system-common' },
  )

/** A program that has an image open, until the end of the test. @param started whether it has by now */
async function holding(command: string, args: readonly string[], started: () => boolean): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ['pipe', 'ignore', 'ignore'] })
  bench.onClean(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  await until(started)
  return child
}

/** Whether somebody has a file locked: as the kernel lists it, by inode. */
function isLocked(file: string): boolean {
  return fs.readFileSync('/proc/locks', 'latin1').includes(`:${fs.statSync(file).ino} `)
}

describeIf(missing, 'a mounted image and QEMU', () => {
  test('which refuses it while it is written through the mount, and takes it afterwards', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    const mounted = await bench.mount({ image })
    for (const args of [
      ['info', image],
      ['check', image],
      ['convert', '-O', 'raw', image, bench.place('copy')],
    ]) {
      const { status, stderr } = execute('qemu-img', ...args)
      expect([args[0], status, stderr]).toEqual([args[0], 1, expect.stringContaining('Failed to get')])
    }
    expect(execute('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', image).stderr).toContain('lock')
    must('qemu-img', 'info', '-U', image)
    must('umount', mounted.mountpoint)
    await until(() => execute('qemu-img', 'info', image).status === 0)
  })

  test('which may read what is only read through the mount, and not write it', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    await bench.mount({ image, readOnly: true })
    must('qemu-img', 'info', image)
    must('qemu-io', '-r', '-f', 'qcow2', '-c', 'read 0 4096', image)
    expect(execute('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', image).stderr).toContain('lock')
  })

  test.each([['overlay'], ['temporary'], ['child']] as const)(
    'which may read the parent of a disk that is written (%s), and not write it; and not touch its top',
    async (how) => {
      const image = await makeImage(bench, 'qcow2', 4 * MIB, 'base.qcow2')
      const top = path.join(path.dirname(image), 'top.qcow2')
      if (how === 'child') await (await createDisk(top, { format: 'qcow2', parent: image })).close()
      const mounted =
        how === 'child'
          ? await bench.mount({ image: top })
          : await bench.mount({ image, ...(how === 'overlay' ? { overlay: top } : { temporary: true }) })
      fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
      must('qemu-img', 'info', image)
      expect(execute('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', image).stderr).toContain('lock')
      if (how !== 'temporary') expect(execute('qemu-img', 'info', top).stderr).toContain('Failed to get')
    },
  )

  test('which has it open for writing: it is not mounted, and the process is named', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    const qemu = await holding('qemu-io', ['-f', 'qcow2', image], () => isLocked(image))
    for (const how of [{}, { readOnly: true }, { temporary: true }]) {
      const error = await refusal(() => bench.mount({ image, ...how }))
      expect(error).toMatchObject({ code: 'IN_USE', message: expect.stringContaining(`qemu-io (process ${qemu.pid})`) })
    }
    // Nor by this process, whose own locks come first in the kernel's lists.
    expect((await refusal(() => openDisk(image, { writable: true }))).message).toContain(`(process ${qemu.pid})`)
    qemu.stdin?.end()
    await once(qemu, 'exit')
    await bench.mount({ image })
  })

  test('whose storage daemon exports it: the same', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    const pidFile = bench.place('pid')
    const options = [
      ['--blockdev', `file,node-name=file,filename=${image}`],
      ['--blockdev', 'qcow2,node-name=disk,file=file'],
      ['--nbd-server', `addr.type=unix,addr.path=${bench.place('nbd')}`],
      ['--export', 'nbd,id=out,node-name=disk,writable=on'],
      ['--pidfile', pidFile],
    ].flat()
    // It writes that file when all is open.
    const daemon = await holding('qemu-storage-daemon', options, () => fs.existsSync(pidFile))
    const error = await refusal(() => bench.mount({ image }))
    expect(error.code).toBe('IN_USE')
    expect(error.message).toContain(`(process ${daemon.pid})`)
    expect(error.message).toMatch(/: qemu-storage/)
  })

  test('with locks off neither minds the other', async () => {
    const image = await makeImage(bench, 'qcow2', 4 * MIB)
    await bench.mount({ image, locking: false })
    must('qemu-img', 'info', image)
    expect(isLocked(image)).toBe(false)
  })
})
