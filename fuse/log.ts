/** Lines in `SPELL` milliseconds; what comes beyond is only counted. A failing medium must not fill the next one. */
const LINES = 50
const SPELL = 10_000

/** A log with the time on each line, which stays of bearable size whatever happens. */
export function makeLog(write: (line: string) => void, now: () => number = Date.now): (message: string) => void {
  let begun = 0
  let count = 0
  return (message) => {
    if (now() - begun >= SPELL) {
      if (count > LINES) write(`${stamp(now())} ${count - LINES} more messages were left out\n`)
      begun = now()
      count = 0
    }
    if (++count <= LINES) write(`${stamp(now())} ${message}\n`)
  }
}

function stamp(time: number): string {
  return new Date(time).toISOString()
}
