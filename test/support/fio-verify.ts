import { spawnSync } from 'node:child_process'

export interface VerifiedLoad {
  /** the mounted disk */
  readonly file: string
  /** programs, each of which writes a part of its own */
  readonly jobs: number
  /** bytes of a part */
  readonly part: number
  /** past the cache of the mount */
  readonly direct: boolean
  readonly seed: number
}

/**
 * Lets fio write at random, with a checksum in each block, and read all of it again.
 *
 * @param what verify: it reads only, what the same load has written before
 * @throws Error with what fio found
 */
export function fioVerify(load: VerifiedLoad, what: 'write and verify' | 'verify' = 'write and verify'): void {
  const job = [
    '--name=verify',
    `--filename=${load.file}`,
    '--thread',
    `--numjobs=${load.jobs}`,
    `--size=${load.part}`,
    `--offset_increment=${load.part}`,
    '--rw=randwrite',
    '--bs=4k',
    '--ioengine=libaio',
    '--iodepth=8',
    `--direct=${load.direct ? 1 : 0}`,
    `--randseed=${load.seed}`,
    '--verify=crc32c',
    '--verify_fatal=1',
    '--verify_state_save=0',
    '--end_fsync=1',
    '--allow_file_create=0',
    what === 'verify' ? '--verify_only' : '--do_verify=1',
  ]
  const { status, stdout, stderr, error } = spawnSync('fio', job, { encoding: 'utf8', maxBuffer: 64 << 20 })
  if (error) throw error
  if (status !== 0) throw new Error(`fio ${job.join(' ')} failed (${status}): ${stderr}${stdout}`)
}
