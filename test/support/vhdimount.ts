import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { runPeer } from './peers.ts'

/** What libvhdi reads of a chain of VHDX files: the content of each layer, base first. */
export function readByLibvhdi(file: string, layers: number): Buffer[] {
  const mount = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-vhdi-'))
  try {
    runPeer('vhdimount', [file, mount])
    return Array.from({ length: layers }, (_, i) => fs.readFileSync(path.join(mount, `vhdi${i + 1}`)))
  } finally {
    runPeer('umount', ['-l', mount], { accept: 'any' })
    fs.rmdirSync(mount)
  }
}
