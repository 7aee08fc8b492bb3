/** The public face of vdisk. */
export { type BackedUp, type BackupOptions, backUp, backUpInto } from './backup/backup.ts'
export { type Backup, type BackupFormat, FORMATS as BACKUP_FORMATS } from './backup/catalogue.ts'
export type { Difference } from './backup/check-content.ts'
export { folderOf as backupFolderOf } from './backup/folder.ts'
export { type BackupList, listBackups } from './backup/list.ts'
export { takeSource } from './backup/live-source.ts'
export { type BackupCompression, COMPRESSIONS as BACKUP_COMPRESSIONS } from './backup/packing.ts'
export { type Restored, type RestoreOptions, restoreBackup } from './backup/restore.ts'
export { type BackupSource, changesOf, openSource, type SeenDisk, seeDisk } from './backup/source.ts'
export { type ComparedSource, type Damage, type Verified, type VerifyOptions, verifyBackups } from './backup/verify.ts'
export { formatSize, parseSize } from './bytes/size.ts'
export { Chain } from './chain/chain.ts'
export { ExchangeableDevice, type ExchangeOptions } from './chain/exchangeable-device.ts'
export { LayerPool, type LayerPoolOptions, type PooledLayer } from './chain/layer-pool.ts'
export type { Level, LinkReason, Verdict } from './chain/linkage.ts'
export { Moment, type MomentOptions } from './chain/moment.ts'
export type { Finding, Severity } from './contracts/check-report.ts'
export { CONCERNS, type ConcernCode, type ConcernSeverity } from './contracts/concerns.ts'
export type { Device } from './contracts/device.ts'
export type { CreateOption, FormatDriver, Supports } from './contracts/driver.ts'
export type { Extent, ResolvedExtent } from './contracts/extent.ts'
export type { Identity, ParentLink } from './contracts/identity.ts'
export type { Concern, Inspector } from './contracts/inspection.ts'
export type { BitmapInfo, SnapshotInfo } from './contracts/layer.ts'
export type { DoubtfulRange, Repaired, RepairScope } from './contracts/repair.ts'
export { createDisk, Disk, openDisk, type StreamOptions, type StreamRange } from './disk.ts'
export {
  cancelled,
  type ErrorCode,
  isVdiskError,
  messageOf,
  throwIfCancelled,
  VdiskError,
  type Where,
} from './errors.ts'
export { drivers } from './formats/registry.ts'
export { expectCopying } from './io/copy-thread.ts'
export type { Entry, EntryKind, FileStore, Files, OpenFileOptions } from './io/files.ts'
export { hostFiles } from './io/host-files.ts'
export { type Awaitable, breathe, type Io, just, promised, run, runSync, serveOthers, settle, Turns } from './io/io.ts'
export { bitmapToToken, type Imported, type ImportOptions, importBitmap } from './jobs/bitmap-tokens.ts'
export {
  addBitmap,
  type BitmapContent,
  clearBitmap,
  exportBitmap,
  listBitmaps,
  mergeBitmaps,
  removeBitmap,
  setBitmapEnabled,
} from './jobs/bitmaps.ts'
export { type CheckOptions, type CheckResult, checkImage } from './jobs/check.ts'
export { type Child, childrenOf } from './jobs/children.ts'
export { type CompareOptions, type Comparison, compareDisks } from './jobs/compare.ts'
export { type ConvertOptions, convertDisk } from './jobs/convert.ts'
export type { Copied } from './jobs/copy.ts'
export { packings } from './jobs/fill-container.ts'
export { type FileOptions, fileIdOf, type OpenOptions } from './jobs/images.ts'
export { type ChainLayerInfo, describeChain, inspectChain, inspectImage, type LayerInfo } from './jobs/info.ts'
export {
  ALLOWED_FORMATS,
  INSPECTED_FORMATS,
  type Judgement,
  type JudgeOptions,
  judgeImage,
  judgeStore,
  MOST_DISK_BYTES,
} from './jobs/inspect.ts'
export { finish, type Job, type JobOptions, type Progress, whileRunning } from './jobs/job.ts'
export { type MapExtent, type MapOptions, mapDisk } from './jobs/map.ts'
export { type Merged, mergeImage } from './jobs/merge.ts'
export { type MergeOptions, type MergePlan, planMerge } from './jobs/merge-plan.ts'
export { type MarkedMoment, takeMoment } from './jobs/moment.ts'
export type { CreateOptions } from './jobs/new-image.ts'
export {
  type DiskContent,
  inspectPartitions,
  type PartitionContent,
  sectorSizeOf,
  surveyDisk,
} from './jobs/partitions.ts'
export { type Relinked, type RelinkOptions, relink } from './jobs/relink.ts'
export { type RepairOptions, type RepairResult, repairImage } from './jobs/repair.ts'
export {
  assertNoChildren,
  type NewSize,
  type Resized,
  type ResizeOptions,
  resizeDisk,
  resizeOpen,
} from './jobs/resize.ts'
export {
  createInternalSnapshot,
  createLayer,
  deleteInternalSnapshot,
  listSnapshots,
  revertToSnapshot,
  type SnapshotEntry,
} from './jobs/snapshot.ts'
export { sidecarOfImage } from './jobs/tracked-disk.ts'
export {
  type ChangedExtent,
  changeMapOf,
  changesSince,
  checkpoint,
  checkpointOpen,
  disableOpen,
  disableTracking,
  type EnableTrackingOptions,
  enableOpen,
  enableTracking,
  forgetConsumer,
  statusOf,
  type TrackingStatus,
  trackingStatus,
} from './jobs/tracking.ts'
export {
  discardUndo,
  planUndo,
  type UndoImageOptions,
  type UndoneFile,
  type UndoPlan,
  undoImage,
} from './jobs/undo.ts'
export type { UndoOptions, UndoWish } from './jobs/undoable.ts'
export { partitionFileName } from './partitions/file-name.ts'
export type { Filesystem, FilesystemType } from './partitions/filesystem.ts'
export { probeFilesystem } from './partitions/filesystem-probe.ts'
export { isExtended } from './partitions/mbr.ts'
export type { Partition, PartitionTable } from './partitions/partition.ts'
export { PartitionDevice } from './partitions/partition-device.ts'
export { type PartitionTableOptions, readPartitionTable } from './partitions/partition-table.ts'
export type { Answer, ChangeMap } from './tracking/change-map.ts'
export { oneByOne, type TellRanges } from './tracking/changed-runs.ts'
export { formatToken, parseToken, type Token } from './tracking/token.ts'
export type { Objection } from './undo/restore.ts'
export type { KeptJournal } from './undo/session.ts'
