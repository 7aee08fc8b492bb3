// npm run soak [-- --minutes N --seed S --format F]: uses mounted disks at random, kills their servers, and looks for losses.
import { runBundled } from './run-bundled.mjs'

await runBundled('test/soak/main.ts')
