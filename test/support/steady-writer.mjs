// Writes files into a folder, one after the other, until it is ended or a call fails: for who wants to end what is below.
//   node steady-writer.mjs FOLDER [DEVICE]
// Prints `NAME SHA256` as soon as a file is durable, by fsync of the file and its folder. With DEVICE it asks little of
// the file system: each file is written once, and fsync of the device makes it durable.
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'

const [folder, device] = process.argv.slice(2)

function makeDurable(place) {
  const fd = fs.openSync(place, 'r')
  fs.fsyncSync(fd)
  fs.closeSync(fd)
}

for (let number = 0; ; number++) {
  const length = 5000 + ((number * 77_777) % 400_000)
  const content = createHash('shake256', { outputLength: length }).update(`file ${number}`).digest()
  const file = path.join(folder, `file-${number}`)
  // Under another name first, and overwritten: renaming and overwriting are work for a journal as well.
  const fd = fs.openSync(`${file}.new`, 'w')
  if (!device) fs.writeSync(fd, Buffer.alloc(length >> 1, number), 0, length >> 1, 0)
  fs.writeSync(fd, content, 0, length, 0)
  fs.closeSync(fd)
  fs.renameSync(`${file}.new`, file)
  makeDurable(file)
  makeDurable(device ?? folder)
  // One that is never made durable, to be on its way when the end comes.
  fs.writeFileSync(path.join(folder, `passing-${number}`), content)
  if (number > 0) fs.rmSync(path.join(folder, `passing-${number - 1}`))
  fs.writeSync(1, `file-${number} ${createHash('sha256').update(content).digest('hex')}\n`)
}
