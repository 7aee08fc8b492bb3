type Stream = NodeJS.WriteStream & { fd: 1 | 2 }

let complain: (stream: Stream, error: NodeJS.ErrnoException) => void = () => {}
const watched = new Set<Stream>()

/** Standard output. Node makes it when it is first asked for, which takes 3 to 5 ms: a command that says nothing does without. */
export function standardOutput(): Stream {
  return watch(process.stdout)
}

/** Standard error, likewise. */
export function standardError(): Stream {
  return watch(process.stderr)
}

/** Says who is told when one of the two cannot be written, a reader that has gone among it. */
export function onStreamError(then: typeof complain): void {
  complain = then
}

function watch(stream: Stream): Stream {
  if (watched.has(stream)) return stream
  watched.add(stream)
  return stream.on('error', (error) => complain(stream, error))
}
