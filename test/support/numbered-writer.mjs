// Writes blocks of 4 KiB to a disk, one after the other, each full of its number: for who wants to know of which moment a copy is.
//   node numbered-writer.mjs FILE FIRST COUNT SPACING
// Block n = 1, 2, ... goes to place n % COUNT of those that begin at FIRST, SPACING bytes apart. So what is there at any moment
// follows from the highest number. Prints a line when it has begun, and goes on until it is ended.
import fs from 'node:fs'

const [file, first, count, spacing] = process.argv.slice(2)
const fd = fs.openSync(file, 'r+')
const block = new Float64Array(512)

function write(number) {
  block.fill(number)
  fs.writeSync(fd, new Uint8Array(block.buffer), 0, 4096, Number(first) + (number % Number(count)) * Number(spacing))
}

function goOn(number) {
  for (let i = 0; i < 20; i++) write(number + i)
  if (number === 1) fs.writeSync(1, 'begun\n')
  // Others are to have some of the processor, too.
  setTimeout(goOn, 5, number + 20)
}

goOn(1)
