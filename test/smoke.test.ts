import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { qcow2 } from '../lib/formats/qcow2/driver.ts'
import { FolderGate } from '../lib/chain/gate.ts'
import { promised } from '../lib/io/io.ts'
import { openChain } from '../lib/chain/open.ts'
import { drivers } from '../lib/formats/registry.ts'
import fs from 'node:fs'
const open = (file: string, access: 'read'|'write') => { const gate = new FolderGate(file); return promised(openChain(FolderGate.openNamed(file, gate, { write: access==='write', lock: access }), { drivers, gate, access, verify: 'strict' })) }
for (const opts of [[], ['cluster_size','4K'], ['cluster_size','512'], ['compat','0.10'], ['extended_l2','on'], ['refcount_bits','1'], ['refcount_bits','64'], ['preallocation','metadata'], ['compression_type','zstd']] as string[][])
test('create, write, check '+opts, async () => {
  const file = `/tmp/t/a-${opts.join('')}.qcow2`
  fs.rmSync(file, { force: true })
  const gate = new FolderGate(file)
  const image = FolderGate.openNamed(file, gate, { write: true, create: 'new' })
  const layer = await promised(qcow2.create!(image, { size: 64 << 20, parent: undefined, options: new Map(opts.length ? [opts as [string,string]] : []) }))
  await promised(layer.close())
  console.log(execFileSync('qemu-img', ['info', file]).toString().split('\n').slice(0,5).join('|'))
  const chain = await open(file, 'write')
  const model = new Uint8Array(64 << 20)
  let seed = 12345
  const rnd = (n: number) => { seed = (seed * 1103515245 + 12345) & 0x7fffffff; return seed % n }
  for (let i = 0; i < 300; i++) {
    const len = 1 + rnd(rnd(10) === 0 ? 300000 : 9000), off = rnd(model.length - len)
    const what = rnd(5)
    if (what === 0) { await promised(chain.erase(off, len)); model.fill(0, off, off+len) }
    else if (what === 1 && i % 7 === 0) await promised(chain.flush())
    else { const b = new Uint8Array(len).fill(1+rnd(255)); await promised(chain.write(off, b)); model.set(b, off) }
  }
  const back = new Uint8Array(model.length)
  await promised(chain.read(0, back))
  expect(Buffer.compare(back, model)).toBe(0)
  await promised(chain.close())
  console.log(execFileSync('qemu-img', ['check', file]).toString())
  fs.writeFileSync('/tmp/t/m.raw', model)
  execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', '/tmp/t/m.raw', file])
})
