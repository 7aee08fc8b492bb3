// npm run kills [-- --minutes N --seed S --job TEXT]: runs jobs in processes of their own, kills them, and looks for losses.
import { runBundled } from './run-bundled.mjs'

await runBundled('test/kills/main.ts')
