import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, onTestFinished } from 'vitest'

/** A folder of its own for a test file, removed when its tests have ended. */
export function tempFolder(name: string): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), `vdisk-${name}-`))
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A folder of its own for the test that asks, removed when that test ends. */
export function scratchFolder(): string {
  const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-test-')))
  onTestFinished(() => fs.rmSync(folder, { recursive: true, force: true }))
  return folder
}
