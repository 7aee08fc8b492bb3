import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn } from '../support/command-line.ts'
import { CraftedImage } from '../support/crafted-qcow2.ts'
import { tempFolder } from '../support/temp.ts'

const folder = tempFolder('inspect-cli')
const vdisk = commandLineIn(folder)

function put(name: string, image: CraftedImage): void {
  fs.writeFileSync(path.join(folder, name), image.bytes)
}

beforeAll(async () => {
  await (await createDisk(path.join(folder, 'good.qcow2'), { format: 'qcow2', size: 1 << 20 })).close()
  put('child.qcow2', new CraftedImage().backing('/etc/passwd', 'raw'))
  put('dirty.qcow2', new CraftedImage().header('incompatible', 1))
})

describe('vdisk inspect', () => {
  test('begins with the verdict, and ends with it', () => {
    const good = vdisk('inspect', 'good.qcow2', '--untrusted')
    expect(good.out).toMatch(/^safe to use alone: yes\ngood\.qcow2: qcow2, disk of 1 MiB \(1048576 bytes\), file of /)
    expect([good.code, good.err]).toEqual([0, ''])
    const child = vdisk('inspect', 'child.qcow2', '--untrusted')
    expect(child.out).toMatch(
      /^safe to use alone: no, for one reason\n.*\nrefuse {2}PARENT_REFERENCE {2}header, at 8\n {4}\S.*"\/etc\/passwd"\.\n {4}\S/,
    )
    expect(child.code).toBe(2)
    const dirty = vdisk('inspect', 'dirty.qcow2', '--untrusted')
    expect(dirty.out).toMatch(
      /^safe to use alone: perhaps, a person should look at one thing first\n.*\nwarn {4}NOT_CLOSED/,
    )
    expect(dirty.code).toBe(3)
  })

  test('only tells, unless a verdict is wanted', () => {
    const { code, out } = vdisk('inspect', 'child.qcow2')
    expect(code).toBe(0)
    expect(out).toMatch(
      /^child\.qcow2: .*\nfrom a stranger, safe to use alone: no, for one reason\nrefuse {2}PARENT_REFERENCE/,
    )
  })

  test('tells programs the same', () => {
    const { code, json } = vdisk('inspect', 'child.qcow2', '--untrusted', '--json')
    expect(code).toBe(2)
    expect(json()).toMatchObject({
      schemaVersion: 1,
      image: 'child.qcow2',
      verdict: 'refuse',
      format: 'qcow2',
      candidates: ['qcow2'],
      size: 4 << 20,
      fileSize: 7 * 4096,
      exitCode: 2,
      findings: [
        {
          code: 'PARENT_REFERENCE',
          severity: 'refuse',
          structure: 'header',
          at: 8,
          section: 'Header',
          message: expect.stringContaining('/etc/passwd'),
          advice: expect.any(String),
        },
      ],
    })
  })

  test('knows a claim, formats that are allowed, and a bound', () => {
    const codes = (...args: string[]): string[] =>
      vdisk('inspect', 'good.qcow2', '--untrusted', '--json', ...args)
        .json()
        .findings.map(({ code }: { code: string }) => code)
    expect(codes('--format', 'qcow2')).toEqual([])
    expect(codes('-f', 'raw')).toEqual(['WRONG_FORMAT'])
    expect(codes('--allow', 'raw', '--allow', 'vhdx')).toEqual(['FORMAT_NOT_ALLOWED'])
    expect(codes('--allow', 'raw', '--allow', 'qcow2')).toEqual([])
    expect(codes('--max-size', '1M')).toEqual([])
    expect(codes('--max-size', '1048575')).toEqual(['DISK_TOO_LARGE'])
  })

  test('what could not be judged ends with 1, as wrong usage does: 2 is a verdict', () => {
    for (const args of [
      ['nowhere'],
      ['.'],
      ['good.qcow2', '--max-size', 'many'],
      ['good.qcow2', '--format', 'anything'],
      ['good.qcow2', '--allow', 'anything'],
      ['good.qcow2', '--anything'],
      [],
    ]) {
      const { code, out, err } = vdisk('inspect', '--untrusted', ...args)
      expect([args, code, out]).toEqual([args, 1, ''])
      expect(err).toMatch(/^vdisk: Cannot /)
    }
  })

  test.skipIf(process.platform === 'win32')(
    'opens nothing that an image names, and shows no control characters',
    () => {
      const canary = path.join(folder, 'canary')
      // Whoever opened it would wait until somebody writes into it.
      expect(spawnSync('mkfifo', [canary]).status).toBe(0)
      const image = new CraftedImage().backing(`${canary}\u001b[31m\n`, 'raw')
      put('named.qcow2', image.extension(0x44415441, Buffer.from(canary)))
      const { code, out } = vdisk('inspect', 'named.qcow2', '--untrusted')
      expect(code).toBe(2)
      expect(out).toContain('canary?[31m?')
      expect(out).not.toContain('\u001b')
      expect(vdisk('inspect', 'canary', '--untrusted').code).toBe(1)
    },
  )
})
