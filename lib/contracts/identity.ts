import type { FileStamp } from '../io/store.ts'

/** Who a layer is: a value that changes when what the guest would read changes, unless its kind says otherwise. */
export interface Identity {
  /**
   * guid: a GUID of the content; cid: VMDK's content id; generation: a GUID of the disk and a count of its states.
   * file: a GUID of the image file, as VHD has it, which stays when the content changes; so it tells files apart, and
   * the time of the last change must tell the rest.
   */
  readonly kind: 'guid' | 'cid' | 'generation' | 'file'
  readonly value: string
  /** false: another program had the file open for writing since this was set, so the content may be newer */
  readonly current: boolean
  /**
   * true: programs write to such a file without changing this, so that who equals it may have been written to all the same;
   * then the file's stamp is looked at, too. 'data': that goes for the other files, in which its data lies as it is
   */
  readonly weak?: boolean | 'data'
}

/** What was known of a parent when its child was linked to it. */
export interface ParentRecord {
  /** bytes that the parent's guest sees */
  readonly size: number
  readonly stamp: FileStamp | undefined
  /** digest over samples of the content, hexadecimal; it tells copies apart, it proves nothing */
  readonly sample: string | undefined
  /** the stamp was taken so soon after a change that a further one may have left it as it is; the sample is looked at, too */
  readonly racy?: boolean
}

/** What a file claims about its parent. Not opened, not trusted. */
export interface ParentLink {
  /** names of the parent as the file has them, in order of preference */
  readonly references: readonly string[]
  /** undefined: the file does not say, and nothing is guessed */
  readonly format: string | undefined
  /** any of these is the parent; empty where the file does not know */
  readonly expects: readonly Identity[]
  readonly record: ParentRecord | undefined
  /** when the parent's file was last changed, in seconds since 1970; only for formats that note it, copies may lose it */
  readonly modified?: number | undefined
  /** a merge of this layer into its parent is under way: the parent changes, this layer covers every change */
  readonly merging: boolean
  /** the identity that was expected before a user accepted another one; kept so that the decision can be traced */
  readonly replaced: Identity | undefined
}

/**
 * The parent that a child is pointed at, which may be of any format. A driver writes down what its format has room for, and
 * in place of an id that it cannot hold a stand-in (`stand-in.ts`); the rest the linkage record beside the image holds.
 */
export interface NewParent {
  /** path relative to the child's folder, '/' between its parts */
  readonly path: string
  readonly absolutePath: string
  readonly format: string
  readonly identity: Identity | undefined
  readonly record: ParentRecord
  /** what the parent's layer says in its `details`: a child of the same format takes over what belongs to the disk */
  readonly details?: { readonly [key: string]: unknown } | undefined
  /** what the child expected, where a user accepts this parent in spite of it */
  readonly replaces: Identity | undefined
}

/** Says that a layer's content was merged into another file, so this one is history. */
export interface MergedMark {
  /** file name of the layer that took the content */
  readonly into: string
  /** seconds since 1970 */
  readonly at: number
}
