import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { runPeer } from './peers.ts'

/** What libvmdk reads of a VMDK, whole. */
export function readByLibvmdk(file: string): Buffer {
  const mount = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-vmdk-'))
  try {
    runPeer('vmdkmount', [file, mount])
    return fs.readFileSync(path.join(mount, 'vmdk1'))
  } finally {
    runPeer('umount', ['-l', mount], { accept: 'any' })
    fs.rmdirSync(mount)
  }
}
