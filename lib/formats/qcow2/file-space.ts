/** How long the image file is; shared by those who read up to its end and those who move it. */
export interface FileSpace {
  /** bytes that the file really has: reads may go up to here */
  length: number
  /** where the clusters end that are in use; the file follows when it is written, at the latest with a flush */
  end: number
}
