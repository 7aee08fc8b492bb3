import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { transform } from 'esbuild'
import { describe, expect, test, vi } from 'vitest'
import { createDisk } from '../lib/index.ts'
import { tempFolder } from './support/temp.ts'

const root = path.join(import.meta.dirname, '..')
const folder = tempFolder('docs')

/** Every block of TypeScript in a page, with the page's name and a number. */
function examplesOf(page: string): [string, string][] {
  const text = fs.readFileSync(path.join(root, page), 'utf8')
  return [...text.matchAll(/```ts\n(.*?)```/gs)].map((match, i) => [`${page}, example ${i + 1}`, match[1] as string])
}

/** Examples in doc comments; their imports go without saying. */
function commentExamplesOf(file: string): [string, string][] {
  const text = fs.readFileSync(path.join(root, file), 'utf8')
  const blocks = [...text.matchAll(/@example\n((?: *\* [^@/].*\n)+)/g)]
  return blocks.map((match, i) => [
    `${file}, example ${i + 1}`,
    `import { createDisk, openDisk } from 'vdisk'\n${(match[1] as string).replace(/^ *\* /gm, '')}`,
  ])
}

async function run(name: string, code: string): Promise<void> {
  const cwd = path.join(folder, name.replaceAll(/[^a-z0-9]+/gi, '-'))
  fs.mkdirSync(path.join(cwd, 'bases'), { recursive: true })
  const at = (file: string): string => path.join(cwd, file)
  for (const file of ['server.vhdx', 'golden.vhdx']) {
    await using disk = await createDisk(at(file), { format: 'vhdx', size: 8 << 20 })
    await disk.write(0, Buffer.alloc(100_000, 1))
  }
  await (await createDisk(at('base.qcow2'), { format: 'qcow2', size: 8 << 20 })).close()
  await (await createDisk(at('overlay.qcow2'), { format: 'qcow2', parent: at('base.qcow2') })).close()
  const library = pathToFileURL(path.join(root, 'dist', 'lib', 'index.js')).href
  const { code: script } = await transform(code.replaceAll("from 'vdisk'", `from '${library}'`), {
    loader: 'ts',
    target: 'node20',
    format: 'esm',
  })
  fs.writeFileSync(at('example.mjs'), script)
  const before = process.cwd()
  const log = vi.spyOn(console, 'log').mockImplementation(() => {})
  try {
    process.chdir(cwd)
    await import(/* @vite-ignore */ pathToFileURL(at('example.mjs')).href)
  } finally {
    process.chdir(before)
    log.mockRestore()
  }
}

describe('what the documentation shows works', () => {
  const examples = [...examplesOf('docs/library.md'), ...examplesOf('README.md'), ...commentExamplesOf('lib/disk.ts')]

  test('there are examples', () => expect(examples.length).toBeGreaterThan(10))

  test.each(examples)('%s', run)
})
