// npm run bench:fuse [-- NAME ...]: measures mounted disks beside those of QEMU and libvhdi in one run, and prints ratios.
import { runBundled } from './run-bundled.mjs'

await runBundled('test/bench/fuse.ts')
