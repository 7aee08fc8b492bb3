import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { runPeer } from './peers.ts'

/** What libvmdk reads of an image and its parents: the content of the disk. */
export function readByLibvmdk(file: string): Buffer {
  const mount = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-vmdk-'))
  try {
    runPeer('vmdkmount', [file, mount])
    const names = fs.readdirSync(mount).sort((a, b) => Number(a.slice(4)) - Number(b.slice(4)))
    return fs.readFileSync(path.join(mount, names.at(-1) as string))
  } finally {
    runPeer('umount', ['-l', mount], { accept: 'any' })
    fs.rmdirSync(mount)
  }
}
