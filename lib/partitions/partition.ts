/** What is known of a disk's partitions. Nothing in it has been believed that the disk contradicts. */
export interface PartitionTable {
  readonly kind: 'gpt' | 'mbr'
  /** the disk's GUID, or its MBR signature as `0x90909090`; what the disk says, and it need not be unique */
  readonly id: string
  /** bytes in which the table counts: of GPT as found, of an MBR as asked for */
  readonly sectorSize: number
  /** by number, which need not be by place */
  readonly partitions: readonly Partition[]
  /** what should be known about the table, in sentences */
  readonly notes: readonly string[]
}

/** One entry of a partition table. */
export interface Partition {
  /** as Linux counts: GPT by slot from 1; MBR 1 to 4, logical ones from 5 */
  readonly number: number
  /** bytes on the disk */
  readonly start: number
  /** bytes; 0 for an entry that ends before it begins */
  readonly length: number
  /** a GUID in lower case, or an MBR type as `0x83` */
  readonly type: string
  readonly typeName: string | undefined
  /** the name in a GPT: as it stands there, fit neither for a terminal nor for a file name; see `partitionFileName` */
  readonly label: string | undefined
  /** of GPT the partition's GUID, of an MBR `90909090-01` as Linux forms it; undefined where the disk has no signature */
  readonly uuid: string | undefined
  /** an MBR's active flag, a GPT's legacy BIOS bootable attribute */
  readonly bootable: boolean
  /** inside of an extended partition */
  readonly logical: boolean
  /** why it cannot be served, as part of a sentence: `it ends behind the disk` */
  readonly damaged?: string
}
