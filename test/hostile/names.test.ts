import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDisk } from '../../lib/index.ts'
import { CraftedImage } from '../support/crafted-qcow2.ts'
import { scratchFolder } from '../support/temp.ts'
import { put, vhdxChild } from './images.ts'
import { Sandbox } from './sandbox.ts'

const sandbox = Sandbox.forThisFile()
const DATA_FILE = 0x44415441

/** Counts who connects: nobody may. */
let connections = 0
const server = net.createServer((socket) => {
  connections++
  socket.destroy()
})
let port = 0
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as net.AddressInfo).port
})
afterAll(() => new Promise<void>((resolve) => void server.close(() => resolve())))

/** A folder of images with all that a name may lead to, in it and beside it. */
interface Place {
  readonly images: string
  /** outside of the folder: nobody's business */
  readonly canary: string
}

function makePlace(): Place {
  const folder = scratchFolder()
  const images = path.join(folder, 'images')
  for (const name of ['images/sub', 'other']) fs.mkdirSync(path.join(folder, name), { recursive: true })
  const canary = path.join(folder, 'other', 'canary')
  fs.writeFileSync(canary, Buffer.alloc(4 << 20, 0x63))
  fs.symlinkSync(canary, path.join(images, 'link'))
  fs.symlinkSync('../other', path.join(images, 'way'))
  execFileSync('mkfifo', [path.join(images, 'fifo')])
  return { images, canary }
}

/** Every place of an image in which a name can stand. */
const REFERENCES: Readonly<Record<string, (images: string, name: Buffer | string) => Promise<string> | string>> = {
  'qcow2 backing file': (images, name) => put(images, 'a', new CraftedImage().backing(name, 'raw')),
  'qcow2 data file': (images, name) =>
    put(images, 'a', new CraftedImage().header('incompatible', 4).extension(DATA_FILE, Buffer.from(name as string))),
  'VHDX relative path': (images, name) => locator(images, { relative_path: String(name) }),
  'VHDX volume path': (images, name) => locator(images, { volume_path: String(name) }),
  'VHDX absolute path': (images, name) => locator(images, { absolute_win32_path: String(name) }),
}

async function locator(images: string, paths: Readonly<Record<string, string>>): Promise<string> {
  const linkage = '{01234567-89AB-4CDE-8F01-23456789ABCD}'
  return put(images, 'a', await vhdxChild({ parent_linkage: linkage, ...paths }))
}

/** Whatever the name, nothing is opened but the image (the sandbox sees to that), and whoever needs the file fails. */
async function expectNotFollowed(file: string, { canary }: Place): Promise<void> {
  const before = fs.statSync(canary)
  const seen = await sandbox.use(file)
  for (const use of ['read', 'write'] as const) expect(seen[use]).toMatch(/^(REFUSED|PARENT_MISSING|NOT_FOUND|CORRUPT)/)
  expect(seen.check).not.toBe('fine')
  const after = fs.statSync(canary)
  expect([after.atimeMs, after.mtimeMs, after.size]).toEqual([before.atimeMs, before.mtimeMs, before.size])
}

describe.each(Object.entries(REFERENCES))('class 9: names that lead out of the folder, as %s', (_, make) => {
  const names: readonly (readonly [string, (place: Place) => string | Buffer])[] = [
    ['an absolute path', ({ canary }) => canary],
    ['a path that leaves the folder', () => '../other/canary'],
    ['a detour that leaves it', () => 'sub/../../other/canary'],
    ['a symbolic link', () => 'link'],
    ['a way over a symbolic link', () => 'way/canary'],
    ['a FIFO', () => 'fifo'],
    ['a folder', () => 'sub'],
    ['a device', () => '/dev/zero'],
    ['a file of the process', () => '/proc/self/environ'],
    ['a NUL', () => 'link\0x'],
    ['a line break', () => 'li\nnk'],
    ['Windows’ way out', () => '..\\other\\canary'],
    ['a share of another machine', () => '\\\\127.0.0.1\\share\\canary'],
    ['a drive', () => 'C:\\other\\canary'],
    ['1024 bytes', () => 'x'.repeat(1024)],
    ['no valid text', () => Buffer.from([0x6c, 0xff, 0xfe, 0x80])],
    ['nothing', () => ''],
  ]
  test.each(names)('%s', async (_, name) => {
    const place = makePlace()
    const text = name(place)
    // UTF-16 has room for any bytes, but not for these.
    await expectNotFollowed(await make(place.images, text), place)
  })
})

describe.each(Object.entries(REFERENCES))('class 10: names that speak of protocols, as %s', (_, make) => {
  const names: readonly (readonly [string, () => string])[] = [
    ['json', () => `json:{"driver":"nbd","server":{"type":"inet","host":"127.0.0.1","port":"${port}"}}`],
    ['nbd', () => `nbd:127.0.0.1:${port}`],
    ['nbd, as URL', () => `nbd://127.0.0.1:${port}/x`],
    ['http', () => `http://127.0.0.1:${port}/x`],
    ['file', () => 'file:canary'],
    ['file, as URL', () => 'file:///etc/passwd'],
    ['fat', () => 'fat:rw:sub'],
    ['one that nobody knows', () => 'proto:x'],
  ]
  test.each(names)('%s', async (_, name) => {
    const place = makePlace()
    const before = connections
    await expectNotFollowed(await make(place.images, name()), place)
    expect(connections).toBe(before)
  })
})

describe('class 8: parents that come back', () => {
  test('to the image itself, by its name, by a detour, by another link of the same file', async () => {
    const folder = scratchFolder()
    for (const name of ['a', './a', 'sub/../a', path.join(folder, 'a'), 'twin']) {
      const file = put(folder, 'a', new CraftedImage().backing(name, 'qcow2'))
      if (!fs.existsSync(path.join(folder, 'twin'))) fs.linkSync(file, path.join(folder, 'twin'))
      const seen = await sandbox.use(file)
      expect([name, seen.read, seen.write]).toEqual([
        name,
        'CHAIN_CYCLE, parent reference',
        'CHAIN_CYCLE, parent reference',
      ])
      expect(seen.inspect).toBe('fine')
    }
  })

  test('to the image over another one', async () => {
    const folder = scratchFolder()
    const a = put(folder, 'a', new CraftedImage().backing('b', 'qcow2'))
    const b = put(folder, 'b', new CraftedImage().backing('a', 'qcow2'))
    const seen = await sandbox.use(a, { mayOpen: [b] })
    expect([seen.inspect, seen.read, seen.write]).toEqual(['fine', ...Array(2).fill('CHAIN_CYCLE, parent reference')])
  })

  test('to a VHDX file itself', async () => {
    const folder = scratchFolder()
    const file = await locator(folder, { relative_path: '.\\a' })
    expect((await sandbox.use(file, { uses: ['inspect', 'read'] })).read).toBe('CHAIN_CYCLE, parent reference')
  })

  test('never: a chain of 1000 images ends at 64', async () => {
    const folder = scratchFolder()
    const files = Array.from({ length: 1000 }, (_, i) =>
      put(folder, `${i}`, new CraftedImage({ clusterBits: 9 }).backing(`${i + 1}`, 'qcow2')),
    )
    const seen = await sandbox.use(files[0] as string, { uses: ['inspect', 'read', 'write'], mayOpen: files })
    expect(seen.read).toBe('LIMIT_EXCEEDED')
    expect(seen.write).toBe('LIMIT_EXCEEDED')
  })
})

describe('the sandbox', () => {
  test('sees what is opened: a parent that is allowed', async () => {
    const { images, canary } = makePlace()
    const file = put(images, 'a', new CraftedImage().backing(canary, 'raw'))
    const options = { allow: [path.dirname(canary)] }
    const { outcome, touched } = await sandbox.ask({ use: 'read', file, options })
    expect([outcome, touched]).toEqual(['fine', [file, canary]])
  })

  test('uses a sound image in all ways', async () => {
    const file = path.join(scratchFolder(), 'a.vhdx')
    await (await createDisk(file, { format: 'vhdx', size: 1 << 20 })).close()
    expect(new Set(Object.values(await sandbox.use(file)))).toEqual(new Set(['fine']))
  })
})
