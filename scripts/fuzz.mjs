// npm run fuzz [-- --format F --minutes N --seed S --differential]: uses damaged images in every way, and looks for promises that break.
import { runBundled } from './run-bundled.mjs'

await runBundled('test/fuzz/main.ts')
