import { openError } from '../../lib/io/file-errors.ts'
import type { Files } from '../../lib/io/files.ts'
import { type MemoryMachine, systemError } from '../faults/memory-machine.ts'

/** The same files, of which some may not be written. */
export function withReadOnly(machine: MemoryMachine, names: readonly string[]): Files {
  const open: Files['open'] = (name, options) => {
    if (options?.write && names.includes(name)) throw openError(name, systemError('EACCES'), options)
    return machine.open(name, options)
  }
  return new Proxy<Files>(machine, {
    get(target, key) {
      if (key === 'open') return open
      const value: unknown = Reflect.get(target, key)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Names, times and content of all files. */
export function allOf(files: MemoryMachine): unknown[] {
  return files.names().map((name) => {
    const { modified, content } = files.file(name)
    const bytes = new Uint8Array(content.size)
    content.read(0, bytes)
    return [name, modified, Buffer.from(bytes).toString('base64')]
  })
}
