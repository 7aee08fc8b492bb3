/**
 * refuse: nobody should use the image. warn: a person should look before anybody does. note: worth knowing.
 *
 * Each kind of concern has one severity, so that a policy can be written down.
 */
export type ConcernSeverity = 'refuse' | 'warn' | 'note'

interface Kind {
  readonly severity: ConcernSeverity
  /** what to do */
  readonly advice: string
}

const ASK_FOR_WHOLE = 'Ask for the image as one file that needs no other, such as vdisk convert makes it.'
const ASK_AGAIN = 'Ask for the image again: this copy is damaged, or made to look so.'
const OWN_PROGRAM = 'Convert it with the program that made it, to a format and version that is known here.'
const NEVER = 'Do not use it: no program makes such an image by itself.'
const LARGE = 'If the image is meant to be so large, raise the bound with --max-size.'

/** Everything that an inspection can find. */
export const CONCERNS = {
  PARENT_REFERENCE: { severity: 'refuse', advice: ASK_FOR_WHOLE },
  EXTERNAL_DATA: { severity: 'refuse', advice: ASK_FOR_WHOLE },
  DEVICE_REFERENCE: { severity: 'refuse', advice: ASK_FOR_WHOLE },
  INCOMPLETE: { severity: 'refuse', advice: ASK_FOR_WHOLE },
  AMBIGUOUS_FORMAT: {
    severity: 'refuse',
    advice: 'Only discs that are disks as well are meant to be so: if it is one, say --format iso.',
  },
  WRONG_FORMAT: {
    severity: 'refuse',
    advice: 'Ask what it is meant to be; never let a program guess the format of this file.',
  },
  FORMAT_NOT_ALLOWED: { severity: 'refuse', advice: 'Ask for another format, or allow this one with --allow.' },
  NOT_JUDGED: { severity: 'refuse', advice: OWN_PROGRAM },
  UNKNOWN_VERSION: { severity: 'refuse', advice: OWN_PROGRAM },
  UNKNOWN_FEATURE: { severity: 'refuse', advice: OWN_PROGRAM },
  ENCRYPTED: { severity: 'refuse', advice: 'What is encrypted cannot be judged: decrypt it first.' },
  DISK_TOO_LARGE: { severity: 'refuse', advice: LARGE },
  TABLE_TOO_LARGE: { severity: 'refuse', advice: NEVER },
  TOO_MANY: { severity: 'refuse', advice: NEVER },
  DAMAGED: { severity: 'refuse', advice: ASK_AGAIN },
  BAD_CHECKSUM: { severity: 'refuse', advice: ASK_AGAIN },
  TRUNCATED: { severity: 'refuse', advice: ASK_AGAIN },
  COPIES_DIFFER: { severity: 'refuse', advice: 'Two programs would see two disks in it: ask for another copy.' },
  BAD_DESCRIPTOR: { severity: 'refuse', advice: NEVER },
  BAD_PARTITION_TABLE: {
    severity: 'refuse',
    advice: 'It is no disk that a machine could boot, or made to be taken for one: ask what it is.',
  },
  PENDING_LOG: {
    severity: 'refuse',
    advice: 'Only when the log is replayed it is known what the image says: vdisk convert does that in memory.',
  },
  COPY_DAMAGED: { severity: 'warn', advice: 'The other copy is good: see how far the damage goes before you use it.' },
  NOT_CLOSED: { severity: 'warn', advice: 'Look for damage before you use it: vdisk check IMAGE' },
  MARKED_CORRUPT: { severity: 'warn', advice: 'Look for damage before you use it: vdisk check IMAGE' },
  TRAILING_DATA: { severity: 'warn', advice: 'Nobody needs what lies there: vdisk convert leaves it behind.' },
  HUGE_FOR_FILE: { severity: 'warn', advice: 'Nearly all of it is zeros, or packed: bound what is unpacked.' },
  PACKED_TIGHTLY: { severity: 'warn', advice: 'Bound what is unpacked, by the size of the disk at least.' },
  TABLES_DISAGREE: {
    severity: 'warn',
    advice: 'Which partitions there are depends on who looks: ask which are meant.',
  },
  SAVED_STATE: {
    severity: 'warn',
    advice: 'A machine was running: its memory may lie in the image. vdisk convert leaves it behind.',
  },
  HYBRID_DISC: { severity: 'note', advice: 'It can be used as a disc and as a disk.' },
  HIDDEN_STATES: { severity: 'note', advice: 'vdisk convert leaves them behind.' },
  UNKNOWN_OPTIONAL: { severity: 'note', advice: 'Readers leave out what they do not know of this kind.' },
  SIZES_DISAGREE: { severity: 'note', advice: 'Programs may see a disk of another size in it.' },
  UNKNOWN_CONTENT: { severity: 'note', advice: 'Use it as raw, and always say so: never let a program guess.' },
} as const satisfies Record<string, Kind>

export type ConcernCode = keyof typeof CONCERNS
