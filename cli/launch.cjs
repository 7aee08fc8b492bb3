#!/usr/bin/env node
// Starts the command line from code that V8 has compiled before. Where the cache does not fit this Node it is ignored.
const fs = require('node:fs')
const Module = require('node:module')
const vm = require('node:vm')

try {
  process.cwd()
} catch {
  process.stderr.write(
    'vdisk: Cannot start: the folder that this shell is in is not there any more\n       Go to another one: cd\n',
  )
  process.exit(1)
}

// The bundle is made of ASCII alone, so that nothing has to be decoded.
const filename = require.resolve('./vdisk.js')
const cache = `${filename}.cache`
const script = new vm.Script(Module.wrap(fs.readFileSync(filename, 'latin1')), {
  filename,
  cachedData: fs.existsSync(cache) ? fs.readFileSync(cache) : undefined,
})
if (process.env.VDISK_WRITE_CODE_CACHE) process.on('exit', () => fs.writeFileSync(cache, script.createCachedData()))
script.runInThisContext()(exports, require, module, filename, __dirname)
