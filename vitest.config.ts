import os from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: os.availableParallelism(),
    reporters: ['default'],
    // Where scripts/coverage.mjs wants to know what the programs do that tests start.
    env: process.env.VDISK_COUNT_PROGRAMS ? { NODE_V8_COVERAGE: process.env.VDISK_COUNT_PROGRAMS } : {},
  },
})
