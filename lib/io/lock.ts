import fs from 'node:fs'
import { VdiskError } from '../errors.ts'
import { holdersOf } from './holders.ts'
import { ERRNO, sys } from './sys.ts'

/**
 * QEMU's image locks, so that a running QEMU is respected and respects us.
 *
 * Byte 100+i locked means "I use permission i", byte 200+i means "I do not share permission i". All are shared locks
 * that belong to the open file; a conflict is found by asking whether an exclusive lock would be granted. They live
 * as long as the descriptor. [QEMU, block/file-posix.c; docs/system/qemu-block-drivers "Disk image file locking"]
 */
const USES = 100
const DOES_NOT_SHARE = 200
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3

/**
 * What a holder of an image does with it: QEMU's own sets for a writable image, and for a read-only or parent image. Who
 * repairs one shares not even reading: meanwhile it may make no sense to anybody else.
 */
const ROLES = {
  write: { uses: [CONSISTENT_READ, WRITE, RESIZE], keeps: [WRITE, RESIZE] },
  read: { uses: [CONSISTENT_READ], keeps: [WRITE, RESIZE] },
  repair: { uses: [CONSISTENT_READ, WRITE, RESIZE], keeps: [CONSISTENT_READ, WRITE, RESIZE] },
} as const

export type LockRole = keyof typeof ROLES

/**
 * Takes the locks of a role on an open file and checks that nobody stands against them.
 *
 * Without native calls there are no locks; the caller then relies on the user. A file system that cannot lock refuses
 * writers and lets readers pass.
 *
 * @throws VdiskError IN_USE naming the other program, if it may be looked at, and what it does; REFUSED where writing cannot be made exclusive
 */
export function lockImage(fd: number, file: string, role: LockRole): void {
  const native = sys()
  if (!native) return
  const { uses, keeps } = ROLES[role]
  for (const byte of [...uses.map((p) => USES + p), ...keeps.map((p) => DOES_NOT_SHARE + p)]) {
    const result = native.lockByte(fd, byte, true)
    if (result === 0) continue
    if (role === 'read') return
    throw new VdiskError('REFUSED', {
      message: `Cannot open ${file} for writing: its file system cannot lock it (errno ${-result})`,
      where: { file },
      advice:
        -result === ERRNO.ENOLCK
          ? 'The lock service of the network file system may be down. Pass --locking=off only if nobody else can have it open.'
          : 'Pass --locking=off only if nobody else can have it open.',
    })
  }
  const forbids = uses.map((p) => DOES_NOT_SHARE + p).filter((byte) => native.byteIsHeld(fd, byte))
  const disturbs = keeps.map((p) => USES + p).filter((byte) => native.byteIsHeld(fd, byte))
  if (forbids.length + disturbs.length === 0) return
  const { dev, ino } = fs.fstatSync(fd, { bigint: true })
  // Our own locks lie beside theirs.
  const holder = holdersOf(`${dev}:${ino}`, forbids.length > 0 ? forbids : disturbs).find(
    ({ pid }) => pid !== process.pid,
  )
  const who = holder ? `${holder.name} (process ${holder.pid})` : 'another program'
  const reads = disturbs.every((byte) => byte === USES + CONSISTENT_READ)
  const why = forbids.length > 0 ? 'has it open and does not allow that' : reads ? 'reads it' : 'is writing to it'
  throw new VdiskError('IN_USE', {
    message: `Cannot open ${file} for ${role === 'read' ? 'reading' : 'writing'}: ${who} ${why}`,
    where: { file },
    advice: 'Stop the virtual machine, mount or tool that uses the image, then try again.',
  })
}
