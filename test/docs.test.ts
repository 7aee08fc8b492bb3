import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { transform } from 'esbuild'
import { describe, expect, test, vi } from 'vitest'
import { ALLOWED_FORMATS, CONCERNS, createDisk } from '../lib/index.ts'
import { commandLineIn, MAIN } from './support/command-line.ts'
import { tempFolder } from './support/temp.ts'

const root = path.join(import.meta.dirname, '..')
const folder = tempFolder('docs')
const vdisk = commandLineIn(folder)

/** Every block of TypeScript in a page, with the page's name and a number. */
function examplesOf(page: string): [string, string][] {
  const text = fs.readFileSync(path.join(root, page), 'utf8')
  return [...text.matchAll(/```ts\n(.*?)```/gs)].map((match, i) => [`${page}, example ${i + 1}`, match[1] as string])
}

/** Examples in doc comments; their imports go without saying, and for methods the disk too. */
function commentExamplesOf(file: string): [string, string][] {
  const text = fs.readFileSync(path.join(root, file), 'utf8')
  const blocks = [...text.matchAll(/@example\n((?: *\* [^@/].*\n)+)/g)]
  return blocks.map((match, i) => {
    const code = (match[1] as string).replace(/^ *\* /gm, '')
    const disk = code.includes('disk = ') ? '' : "await using disk = await openDisk('overlay.qcow2')\n"
    return [`${file}, example ${i + 1}`, `import { createDisk, openDisk } from 'vdisk'\n${disk}${code}`]
  })
}

/** Every block of shell in a page. */
function scriptsOf(page: string): [string, string][] {
  const text = fs.readFileSync(path.join(root, page), 'utf8')
  return [...text.matchAll(/```sh\n(.*?)```/gs)].map((match, i) => [`${page}, script ${i + 1}`, match[1] as string])
}

/** A folder with the images that the scripts of the documentation speak of. */
async function folderWithImages(name: string): Promise<string> {
  const cwd = path.join(folder, name.replaceAll(/[^a-z0-9]+/gi, '-'))
  fs.mkdirSync(cwd, { recursive: true })
  const at = (file: string): string => path.join(cwd, file)
  for (const file of ['base.vhdx', 'golden.vhdx', 'disk.qcow2', 'disk.raw']) {
    // A page that makes one of them itself begins without it.
    if (scriptsOf('docs/manual.md').some(([title, text]) => title === name && text.includes(`create ${file}`))) continue
    await using disk = await createDisk(at(file), { format: path.extname(file).slice(1), size: 64 << 20 })
    await disk.write(0, Buffer.alloc(100_000, 1))
  }
  const parent = name.includes('manual') ? 'golden.vhdx' : 'base.vhdx'
  await (await createDisk(at('middle.avhdx'), { format: 'vhdx', parent: at(parent) })).close()
  {
    await using leaf = await createDisk(at('leaf.avhdx'), { format: 'vhdx', parent: at('middle.avhdx') })
    await leaf.write(1 << 20, Buffer.alloc(50_000, 2))
  }
  if (/snapshot/.test(scriptsOf('docs/manual.md').find(([title]) => title === name)?.[1] ?? '')) {
    await (await createDisk(at('overlay.qcow2'), { format: 'qcow2', parent: at('disk.qcow2') })).close()
  }
  return cwd
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
  const examples = [
    ...examplesOf('docs/library.md'),
    ...examplesOf('docs/untrusted-images.md'),
    ...examplesOf('README.md'),
    ...commentExamplesOf('lib/disk.ts'),
  ]

  test('there are examples', () => expect(examples.length).toBeGreaterThan(10))

  test.each(examples)('%s', run)

  const scripts = [...scriptsOf('README.md'), ...scriptsOf('docs/manual.md')]

  test('there are scripts', () => expect(scripts.length).toBeGreaterThan(10))

  test.runIf(process.platform !== 'win32').each(scripts)('%s', async (name, script) => {
    if (script.includes('vdisk mount') && !fs.existsSync('/dev/fuse')) return
    const cwd = await folderWithImages(name)
    const shell = `set -e; vdisk() { "${process.execPath}" "${MAIN}" "$@"; }\n${script}`
    const { status, stderr } = spawnSync('bash', ['-c', shell], { cwd, encoding: 'utf8' })
    expect({ status, stderr: stderr.replaceAll(/^(note:|.*from now on).*\n/gm, '') }).toEqual({ status: 0, stderr: '' })
  })

  const verbs = [...vdisk('--help').out.matchAll(/^ {2}([a-z]+) +\S/gm)].map((match) => match[1] as string)

  test.each(verbs)('the manual names all options of %s, and its help has examples that it understands', (verb) => {
    const help = vdisk(verb, '--help').out
    const manual = fs.readFileSync(path.join(root, 'docs/manual.md'), 'utf8')
    expect(manual).toMatch(new RegExp(`\\*\\*${verb}\\b`))
    for (const [, option] of help.matchAll(/^ +(?:-\w, )?(--[a-z-]+)/gm)) {
      const named =
        {
          '--option': '-o',
          '--format-b': '-F',
          '--color': '--no-color',
          '--flush': '--no-flush',
          '--check': '--no-check',
        }[option as string] ?? option
      expect(manual).toContain(named)
    }
    const lines = [
      ...(help
        .split('Examples:\n')[1]
        ?.split('\n\n')[0]
        ?.matchAll(/^ {2}vdisk (.*)$/gm) ?? []),
    ]
    expect(lines.length).toBeGreaterThan(0)
    for (const [, line] of lines) {
      const [first = '', ...words] = (line as string).split(' && ')[0]?.split(' ') ?? []
      if (first === 'tour' || first === 'mounts') continue
      // Nothing is there: but the words themselves are understood.
      expect(vdisk(first, ...words, '--json').json().error?.message ?? '').not.toMatch(/Cannot (run|understand)/)
    }
  })

  test('images from strangers: each kind of finding is told, with its severity, and each format that is allowed', () => {
    const page = fs.readFileSync(path.join(root, 'docs/untrusted-images.md'), 'utf8')
    const rows = [...page.matchAll(/^\| `([A-Z_]+)` +\| (refuse|warn|note) /gm)].map(([, code, severity]) => [
      code,
      severity,
    ])
    expect(rows).toEqual(Object.entries(CONCERNS).map(([code, { severity }]) => [code, severity]))
    expect(page).toContain(`Default: ${ALLOWED_FORMATS.join(', ')}.`)
  })

  test('the manual tells what the documents of --json hold', () => {
    const manual = fs.readFileSync(path.join(root, 'docs/manual.md'), 'utf8').replace(/^.*## JSON/s, '')
    const fieldsOf = (verb: string): string => manual.match(new RegExp(`^\\| \`${verb}\`.*$`, 'm'))?.[0] ?? ''
    vdisk('create', 'x.qcow2', '-f', 'qcow2', '--size', '1M')
    const expectTold = (row: string, document: object): void => {
      for (const [name, value] of Object.entries(document)) {
        if (name === 'schemaVersion') continue
        expect([row, fieldsOf(row)]).toEqual([row, expect.stringContaining(`\`${name}\``)])
        const inside = Array.isArray(value) ? value[0] : value
        if (name === 'details' || typeof inside !== 'object' || inside === null) continue
        for (const key of Object.keys(inside))
          expect([row, fieldsOf(row)]).toEqual([row, expect.stringContaining(`\`${key}\``)])
      }
    }
    expectTold('create', vdisk('create', 'y.qcow2', '-f', 'qcow2', '--parent', 'x.qcow2', '--json').json())
    expectTold('info', vdisk('info', 'y.qcow2', '--json').json())
    expectTold('inspect', vdisk('inspect', 'y.qcow2', '--json').json())
    expectTold('check', vdisk('check', 'y.qcow2', '--json').json())
    expectTold('map', vdisk('map', 'y.qcow2', '--json').json())
    expectTold('convert', vdisk('convert', 'y.qcow2', 'z.raw', '-O', 'raw', '--json').json())
    expectTold('compare', vdisk('compare', 'y.qcow2', 'z.raw', '--json').json())
    expectTold('resize', vdisk('resize', 'y.qcow2', '+1M', '--json').json())
    expectTold('snapshot create', vdisk('snapshot', 'create', 'y.qcow2', 'one', '--json').json())
    expectTold('snapshot list', vdisk('snapshot', 'list', 'y.qcow2', '--json').json())
    expectTold('bitmap add', vdisk('bitmap', 'add', 'y.qcow2', 'all', '--json').json())
    expectTold('bitmap list', vdisk('bitmap', 'list', 'y.qcow2', '--json').json())
    expectTold('bitmap export', vdisk('bitmap', 'export', 'y.qcow2', 'all', '--json').json())
    expectTold('bitmap import', vdisk('bitmap', 'import', 'y.qcow2', 'new', '--json').json())
    expectTold('relink', vdisk('relink', 'y.qcow2', '--parent', 'x.qcow2', '--json').json())
    expectTold('undo', vdisk('undo', 'y.qcow2', '--show', '--json').json())
    expectTold('undo', vdisk('undo', 'y.qcow2', '--json').json())
    expectTold('merge --plan', vdisk('merge', 'y.qcow2', '--plan', '--json').json())
    const error = vdisk('info', 'nowhere', '--json').json()
    expect(Object.keys(error.error).sort()).toEqual(['advice', 'code', 'message', 'where'])
  })
})
