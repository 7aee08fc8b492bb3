import { execFileSync, spawnSync } from 'node:child_process'

/** Where to get the tools that our files are compared with. */
const PACKAGES: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  vhdimount: 'libvhdi-utils',
  bzip2: 'bzip2',
  gzip: 'gzip',
  xz: 'xz-utils',
}

const TIMEOUT = 120_000

/** A tool of another project, or why it is not here. */
export interface Peer {
  readonly name: string
  /** undefined: it is here; else the reason, with the command that brings it */
  readonly missing: string | undefined
  /** Runs it. @returns its standard output; throws with its error output if it fails */
  run(...args: string[]): string
  /** Runs it where failing is an answer too. */
  try(...args: string[]): { code: number; output: string }
}

export function peer(name: string): Peer {
  const found = spawnSync('sh', ['-c', `command -v ${name}`]).status === 0
  return {
    name,
    missing: found ? undefined : `${name} is not installed: apt install ${PACKAGES[name] ?? name}`,
    run: (...args) =>
      execFileSync(name, args, { encoding: 'utf8', timeout: TIMEOUT, stdio: ['ignore', 'pipe', 'pipe'] }),
    try: (...args) => {
      const { status, stdout, stderr } = spawnSync(name, args, { encoding: 'utf8', timeout: TIMEOUT })
      return { code: status ?? -1, output: stdout + stderr }
    },
  }
}
