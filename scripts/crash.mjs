// npm run crash [-- --format F --states N --seed S --replay LINE]: crashes images at every moment, and looks for what is wrong.
import { runBundled } from './run-bundled.mjs'

await runBundled('test/crash/main.ts')
