// npm run bench [-- NAME ...]: measures vdisk beside its peers in one run, and prints ratios.
import { runBundled } from './run-bundled.mjs'

await runBundled('test/bench/main.ts')
