import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { commandLineIn, MAIN } from '../support/command-line.ts'
import { isRunning, until, whyNoMounts } from '../support/mounts.ts'
import { scratchFolder } from '../support/temp.ts'

/** The tool in a folder that is all there is for it: what it leaves is there. */
function alone(more: NodeJS.ProcessEnv = {}): {
  folder: string
  vdisk: ReturnType<typeof commandLineIn>
  left: () => string[]
  env: NodeJS.ProcessEnv
} {
  const folder = scratchFolder()
  const [work, temporary, run] = ['work', 'tmp', 'run'].map((name) => path.join(folder, name)) as [
    string,
    string,
    string,
  ]
  for (const each of [work, temporary, run]) fs.mkdirSync(each)
  const env = {
    ...process.env,
    TMPDIR: temporary,
    VDISK_RUNTIME_DIR: run,
    XDG_STATE_HOME: path.join(folder, 'state'),
    ...more,
  }
  return { folder: work, vdisk: commandLineIn(work, { env }), left: () => fs.readdirSync(temporary), env }
}

describe('the tour', () => {
  test('shows a chain, that it is sound, that a change is noticed, a mount and a merge, and leaves nothing behind', () => {
    const { vdisk, left } = alone()
    const { code, out } = vdisk('tour')
    expect(code).toBe(0)
    expect(out.match(/^\d\. /gm)).toHaveLength(7)
    for (const said of [
      'tuesday.avhdx   vhdx, ',
      'No errors in 3 layers and the links between them.',
      'noticed: ',
      'It reads back from the image.',
      'It reads the same as the chain did, byte for byte.',
      'No errors were found in it.',
      'That was all.',
    ])
      expect(out).toContain(said)
    expect(out).not.toContain('NOT')
    expect(left()).toEqual([])
  })

  test('where nothing can be mounted it says why, writes through the library, and leaves nothing behind', () => {
    const { vdisk, left } = alone({ VDISK_RUNTIME_DIR: '/dev/null/deeper' })
    const { code, out } = vdisk('tour')
    expect(code).toBe(0)
    for (const said of [
      'Not here: Cannot make the folder /dev/null/deeper/vdisk',
      'Name another place in VDISK_RUNTIME_DIR.',
      'Written through the library instead.',
      'It reads back from the image.',
      'That was all.',
    ])
      expect(out).toContain(said)
    expect(left()).toEqual([])
  })

  test('without its images it says that the installation lacks them, and leaves nothing behind', () => {
    const { folder, left, env } = alone()
    fs.cpSync(path.dirname(MAIN), folder, { recursive: true })
    const { status, stderr } = spawnSync(process.execPath, [path.join(folder, 'main.js'), 'tour'], {
      env,
      encoding: 'utf8',
    })
    expect([status, stderr]).toEqual([1, expect.stringContaining('The images of the tour are missing')])
    expect(left()).toEqual([])
  })

  test('tells programs the same', () => {
    const { vdisk, left } = alone()
    const { tour } = vdisk('tour', '--json').json()
    const results = Object.fromEntries(
      tour.map(({ title, result }: { title: string; result: object }) => [title, result]),
    )
    expect(results).toMatchObject({
      'That it is sound': { error: 0, leak: 0 },
      'What if somebody writes to the base?': { noticed: true },
      'The disk as a file, to read and to write': { mounted: whyNoMounts() === undefined },
      'The result, verified': { equal: true, counts: { error: 0 } },
    })
    expect(left()).toEqual([])
  })
})

const missing = whyNoMounts()
describe.skipIf(missing)(`mounts${missing ? ` (skipped: ${missing})` : ''}`, () => {
  test('are listed as they are; one whose server died is told with what to do, and what was lost when it is cleared away', async () => {
    const { folder, vdisk } = alone()
    const file = path.join(folder, 'a.qcow2')
    await (await createDisk(file, { format: 'qcow2', size: 1 << 20 })).close()
    const at = path.join(folder, 'mnt')
    fs.mkdirSync(at)
    onTestFinished(() => void vdisk('unmount', at))
    expect(vdisk('mount', 'a.qcow2', 'mnt', '--read-only').out).toContain('is the disk, read-only.')
    expect(vdisk('mounts').out).toMatch(/mnt {2}\S*a\.qcow2 {2}serving, read-only, process \d+$/m)
    const [{ pid }] = vdisk('mounts', '--json').json().mounts
    process.kill(pid, 'SIGKILL')
    await until(() => !isRunning(pid))
    expect(vdisk('mounts').out).toContain('Its server has died. Clear it away with: vdisk unmount')
    const ended = vdisk('unmount', 'mnt')
    expect([ended.code, ended.err]).toEqual([1, expect.stringContaining('its server had ended before')])
    // Others may mount on this machine too.
    expect(vdisk('mounts').out).not.toContain(folder)
    for (const [mode, shown, said] of [
      ['--temporary', 'temporary', 'goes with the mount'],
      ['--overlay=over.qcow2', 'read-write', 'what is written there goes to'],
    ] as const) {
      expect(vdisk('mount', 'a.qcow2', 'mnt', mode).out).toContain(said)
      expect(vdisk('mounts').out).toContain(`serving, ${shown}`)
      expect(vdisk('unmount', 'mnt').out).toContain('everything is on the medium')
    }
    expect(vdisk('mount', 'a.qcow2', 'mnt', '--mode', '999')).toMatchObject({
      code: 2,
      err: expect.stringContaining('Write permissions in octal'),
    })
    expect(vdisk('mount', 'a.qcow2', 'mnt', '--uid', 'me')).toMatchObject({
      code: 2,
      err: expect.stringContaining('Write a number'),
    })
  })
})
