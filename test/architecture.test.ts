import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'

const root = path.join(import.meta.dirname, '..')

/** Which rooms a room may import from; its own folder always. The rooms of floor 4 do not know each other. */
const ALLOWED: readonly (readonly [RegExp, readonly RegExp[]])[] = [
  [/^lib\/errors\.ts$/, []],
  [/^lib\/bytes\//, [/^lib\/errors\.ts$/]],
  [/^lib\/io\//, [/^lib\/errors\.ts$/]],
  [
    /^lib\/contracts\//,
    [/^lib\/errors\.ts$/, /^lib\/bytes\//, /^lib\/io\/(io|store|bounded-store|retirement|zeros)\.ts$/],
  ],
  [/^lib\/formats\/registry\.ts$/, [/^lib\/contracts\//, /^lib\/formats\/[a-z0-9]+\/driver\.ts$/]],
  [/^lib\/formats\/[a-z0-9]+\//, [/^lib\/(contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/containers\//, [/^lib\/(contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/chain\//, [/^lib\/(contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/partitions\//, [/^lib\/(contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/inspection\//, [/^lib\/(contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/undo\//, [/^lib\/(io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/tracking\//, [/^lib\/(contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [
    /^lib\/jobs\//,
    [
      /^lib\/(chain|tracking|partitions|inspection|undo|contracts|io|bytes)\//,
      /^lib\/errors\.ts$/,
      /^lib\/(formats|containers)\/registry\.ts$/,
    ],
  ],
  [/^lib\/backup\//, [/^lib\/(jobs|chain|tracking|contracts|io|bytes)\//, /^lib\/errors\.ts$/]],
  [/^lib\/(index|disk)\.ts$/, [/^lib\//]],
  [/^fuse\//, [/^fuse\//, /^lib\/index\.ts$/, /^lib\/bytes\/(pool|struct)\.ts$/, /^lib\/io\/sys\.ts$/]],
  [/^cli\//, [/^lib\/index\.ts$/, /^fuse\/(daemon|control\/control-client)\.ts$/]],
]

/** What of Node the inner rooms may use: only stores, the gate and jobs touch files; formats and the waist never do. */
const BUILT_IN: readonly (readonly [RegExp, readonly string[]])[] = [
  [/^lib\/errors\.ts$/, []],
  [/^lib\/bytes\//, ['node:crypto', 'node:zlib']],
  [/^lib\/io\//, ['node:fs', 'node:module', 'node:path', 'node:worker_threads', 'node:zlib']],
  [/^lib\/contracts\//, []],
  [/^lib\/formats\//, ['node:zlib']],
  [/^lib\/containers\//, ['node:crypto', 'node:util', 'node:zlib']],
  [/^lib\/partitions\//, []],
  [/^lib\/inspection\//, []],
  [/^lib\/undo\//, ['node:path']],
  [/^lib\/tracking\//, []],
  [/^lib\/backup\//, ['node:crypto', 'node:path', 'node:timers/promises']],
  [/^lib\/chain\/gate\.ts$/, ['node:fs', 'node:path']],
  [/^lib\/chain\/record-file\.ts$/, ['node:path']],
  [/^lib\/chain\//, ['node:crypto']],
]

/** Packages, and the one place where each may be named. */
const PACKAGES: Record<string, RegExp> = {
  koffi: /^lib\/io\/sys\.ts$/,
  'binary-parser': /^lib\/bytes\/(struct|binary-parser\.d)\.ts$/,
  '@bokuweb/zstd-wasm': /^lib\/io\/zstd\.ts$/,
  'fuse-native': /^fuse\/doors\/portable\.ts$/,
  yargs: /^cli\//,
  'fast-xml-parser': /^lib\/bytes\/xml\.ts$/,
  'cli-progress': /^cli\/output\.ts$/,
}

const files = ['lib', 'fuse', 'cli'].flatMap((folder) =>
  fs
    .readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${folder}/${name.split(path.sep).join('/')}`),
)

function importsOf(file: string): string[] {
  const text = fs.readFileSync(path.join(root, file), 'utf8')
  return [...text.matchAll(/(?:from |import |import\()'([^']+)'|\('(koffi|fuse-native)'\)/g)].map(
    (match) => (match[1] ?? match[2]) as string,
  )
}

describe('the house keeps its floors', () => {
  test.each(files)('%s imports only what lies below it', (file) => {
    const [, rooms] = ALLOWED.find(([room]) => room.test(file)) ?? [undefined, []]
    for (const name of importsOf(file)) {
      if (name.startsWith('node:')) {
        const known = BUILT_IN.find(([room]) => room.test(file))?.[1] ?? [name]
        expect(known, `${file} imports ${name}`).toContain(name)
        continue
      }
      if (!name.startsWith('.')) {
        expect(PACKAGES[name], `${file} imports ${name}`).toBeDefined()
        expect(file).toMatch(PACKAGES[name] as RegExp)
        continue
      }
      const target = path.posix.normalize(path.posix.join(path.posix.dirname(file), name))
      // All rooms of a format are its own.
      const own = /^lib\/formats\/[a-z0-9]+(?=\/)/.exec(file)?.[0] ?? path.posix.dirname(file)
      const inside =
        own !== 'lib' && (target.startsWith(`${own}/`) || (own.startsWith('cli') && target.startsWith('cli/')))
      expect(inside || rooms.some((room) => room.test(target)), `${file} imports ${target}`).toBe(true)
    }
  })

  test('no file imports in a circle', () => {
    const graph = new Map(
      files.map((file) => [
        file,
        importsOf(file)
          .filter((name) => name.startsWith('.'))
          .map((name) => path.posix.normalize(path.posix.join(path.posix.dirname(file), name))),
      ]),
    )
    const done = new Set<string>()
    const visit = (file: string, way: readonly string[]): void => {
      if (way.includes(file)) throw new Error(`a circle: ${[...way.slice(way.indexOf(file)), file].join(' -> ')}`)
      if (done.has(file)) return
      for (const next of graph.get(file) ?? []) visit(next, [...way, file])
      done.add(file)
    }
    for (const file of files) visit(file, [])
  })
})
