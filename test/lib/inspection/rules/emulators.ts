import { CraftedFile } from '../../../support/crafted-file.ts'
import type { Rule } from '../../../support/judging.ts'

/** Formats of emulators that few use any more; none is allowed unless it is named. */

const KIB = 1024

type Edit = (file: CraftedFile) => void
type Make = () => ReturnType<CraftedFile['store']>

/** Rules of a format, in each of which it is allowed. */
function of(format: string, rules: readonly Omit<Rule, 'options'>[]): Rule[] {
  return rules.map((rule) => ({ ...rule, title: `${format}: ${rule.title}`, options: { allow: [format] } }))
}

/** ["Header" of docs/interop/parallels] */
function parallels(edit: Edit = () => {}, magic = 'WithouFreSpacExt'): Make {
  return () => {
    const file = new CraftedFile(64 * KIB, 'little')
    file.text(0, magic).u32(16, 2).u32(20, 16).u32(24, 1).u32(28, 8).u32(32, 4).u64(36, 32)
    file.u32(44, 0x312e3276).u32(48, 8)
    file.u32(64, 2)
    edit(file)
    return file.store()
  }
}

/** ["Header" of docs/interop/qed_spec] */
function qed(edit: Edit = () => {}): Make {
  return () => {
    const file = new CraftedFile(64 * KIB, 'little')
    file
      .text(0, 'QED\0')
      .u32(4, 4096)
      .u32(8, 1)
      .u32(12, 1)
      .u64(40, 4096)
      .u64(48, 1 << 20)
    edit(file)
    return file.store()
  }
}

/** [QCowHeader] */
function qcow(edit: Edit = () => {}): Make {
  return () => {
    const file = new CraftedFile(64 * KIB, 'big')
    file
      .text(0, 'QFI\xfb')
      .u32(4, 1)
      .u64(24, 1 << 20)
      .u8(32, 12)
      .u8(33, 9)
      .u64(40, 48)
    edit(file)
    return file.store()
  }
}

/** [redolog_header_t] */
function bochs(edit: Edit = () => {}): Make {
  return () => {
    const file = new CraftedFile(64 * KIB, 'little')
    file.text(0, 'Bochs Virtual HD Image').text(32, 'Redolog').text(48, 'Growing').u32(64, 0x20000).u32(68, 512)
    file
      .u32(72, 16)
      .u32(76, 1)
      .u32(80, 4096)
      .u64(88, 64 * KIB)
    edit(file)
    return file.store()
  }
}

/** [cloop_head] */
function cloop(edit: Edit = () => {}): Make {
  return () => {
    const file = new CraftedFile(64 * KIB, 'big')
    file
      .text(0, '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0\n')
      .u32(128, 64 * KIB)
      .u32(132, 16)
    edit(file)
    return file.store()
  }
}

export const emulatorRules: readonly Rule[] = [
  ...of('parallels', [
    { title: 'an image', file: parallels(), finds: [] },
    { title: 'an image with the old magic', file: parallels((f) => f.u32(40, 7), 'WithoutFreeSpace'), finds: [] },
    { title: 'another version', file: parallels((f) => f.u32(16, 3)), finds: ['UNKNOWN_VERSION'] },
    { title: 'clusters of no sectors', file: parallels((f) => f.u32(28, 0)), finds: ['DAMAGED'] },
    { title: 'a disk without room', file: parallels((f) => f.u64(36, 33)), finds: ['DAMAGED'] },
    {
      title: 'data over the BAT',
      file: parallels((f) => f.u32(32, 1200).u64(36, 9600).fill(64, 4)),
      finds: ['DAMAGED'],
    },
    { title: 'a BAT without end', file: parallels((f) => f.u32(32, 2 ** 31)), finds: ['DAMAGED', 'TABLE_TOO_LARGE'] },
    { title: 'a BAT past the end', file: parallels((f) => f.u32(32, 2 ** 20).u32(48, 2 ** 20)), finds: ['TRUNCATED'] },
    { title: 'a cluster past the end', file: parallels((f) => f.u32(68, 77)), finds: ['TRUNCATED'] },
    { title: 'two clusters in one place', file: parallels((f) => f.u32(68, 2)), finds: ['DAMAGED'] },
    { title: 'a file that was not closed', file: parallels((f) => f.u32(44, 0x746f6e59)), finds: ['NOT_CLOSED'] },
    {
      title: 'a mark of Parallels\u2019 own',
      file: parallels((f) => f.u32(44, 0x37316470)),
      finds: ['UNKNOWN_OPTIONAL'],
    },
    { title: 'flags that are not known', file: parallels((f) => f.u32(52, 2)), finds: ['UNKNOWN_OPTIONAL'] },
    { title: 'an extension past the end', file: parallels((f) => f.u64(56, 2 ** 40)), finds: ['TRUNCATED'] },
    { title: 'a header that is cut off', file: parallels((f) => f.resize(40)), finds: ['TRUNCATED'] },
    {
      title: 'the description of a bundle',
      file: () =>
        new CraftedFile(99, 'big').text(0, "<?xml version='1.0'?>\n<Parallels_disk_image Version='1'>").store(),
      finds: ['EXTERNAL_DATA'],
    },
  ]),
  ...of('qed', [
    { title: 'an image', file: qed(), finds: [] },
    {
      title: 'a backing file',
      file: qed((f) => f.u64(16, 1).u32(56, 64).u32(60, 4).text(64, 'base')),
      finds: ['PARENT_REFERENCE'],
    },
    {
      title: 'a backing file that lies outside',
      file: qed((f) => f.u64(16, 1).u32(56, 2 ** 31)),
      finds: ['PARENT_REFERENCE'],
    },
    { title: 'features that are not known', file: qed((f) => f.u64(16, 8)), finds: ['UNKNOWN_FEATURE'] },
    { title: 'in need of a check', file: qed((f) => f.u64(16, 2)), finds: ['NOT_CLOSED'] },
    { title: 'clusters of no bytes', file: qed((f) => f.u32(4, 0)), finds: ['DAMAGED'] },
    { title: 'tables of three clusters', file: qed((f) => f.u32(8, 3)), finds: ['DAMAGED'] },
    { title: 'a disk without room', file: qed((f) => f.u64(48, 2 ** 31)), finds: ['DAMAGED'] },
    { title: 'an L1 table over the header', file: qed((f) => f.u64(40, 0)), finds: ['DAMAGED'] },
    { title: 'an L1 table past the end', file: qed((f) => f.u64(40, 2 ** 50)), finds: ['TRUNCATED'] },
    { title: 'a header that is cut off', file: qed((f) => f.resize(40)), finds: ['TRUNCATED'] },
  ]),
  ...of('qcow', [
    { title: 'an image', file: qcow(), finds: [] },
    {
      title: 'a backing file',
      file: qcow((f) => f.u64(8, 4096).u32(16, 4).text(4096, 'base')),
      finds: ['PARENT_REFERENCE'],
    },
    {
      title: 'a backing file that lies outside',
      file: qcow((f) => f.u64(8, 2n ** 63n).u32(16, 4)),
      finds: ['PARENT_REFERENCE'],
    },
    { title: 'encryption', file: qcow((f) => f.u32(36, 1)), finds: ['ENCRYPTED'] },
    { title: 'clusters of 2^63 bytes', file: qcow((f) => f.u8(32, 63)), finds: ['DAMAGED'] },
    { title: 'tables of 2^63 entries', file: qcow((f) => f.u8(33, 63)), finds: ['DAMAGED'] },
    {
      title: 'an L1 table without end',
      file: qcow((f) => f.u64(24, 2 ** 44)),
      finds: ['HUGE_FOR_FILE', 'TABLE_TOO_LARGE'],
    },
    { title: 'an L1 table past the end', file: qcow((f) => f.u64(40, 2 ** 50)), finds: ['TRUNCATED'] },
    { title: 'an L1 table over the header', file: qcow((f) => f.u64(40, 8)), finds: ['DAMAGED'] },
    { title: 'a header that is cut off', file: qcow((f) => f.resize(40)), finds: ['TRUNCATED'] },
  ]),
  ...of('bochs', [
    { title: 'an image', file: bochs(), finds: [] },
    { title: 'an image of the old version', file: bochs((f) => f.u32(64, 0x10000).u64(84, 64 * KIB)), finds: [] },
    { title: 'another version', file: bochs((f) => f.u32(64, 0x30000)), finds: ['UNKNOWN_VERSION'] },
    { title: 'a log of changes', file: bochs((f) => f.text(48, 'Undoable')), finds: ['PARENT_REFERENCE'] },
    { title: 'a type that is not known', file: bochs((f) => f.text(48, 'Anyhow!')), finds: ['UNKNOWN_FEATURE'] },
    { title: 'extents of no bytes', file: bochs((f) => f.u32(80, 0)), finds: ['DAMAGED'] },
    { title: 'a disk without room', file: bochs((f) => f.u64(88, 65 * KIB)), finds: ['DAMAGED'] },
    { title: 'a catalog without end', file: bochs((f) => f.u32(72, 2 ** 31)), finds: ['TABLE_TOO_LARGE'] },
    { title: 'a catalog past the end', file: bochs((f) => f.u32(72, 2 ** 16)), finds: ['TRUNCATED'] },
    { title: 'a header that is cut off', file: bochs((f) => f.resize(80)), finds: ['TRUNCATED'] },
  ]),
  ...of('cloop', [
    { title: 'an image', file: cloop(), finds: [] },
    { title: 'blocks of no bytes', file: cloop((f) => f.u32(128, 0)), finds: ['DAMAGED'] },
    { title: 'blocks of 2 GiB', file: cloop((f) => f.u32(128, 2 ** 31)), finds: ['DAMAGED'] },
    {
      title: 'a table without end',
      file: cloop((f) => f.u32(132, 2 ** 27)),
      finds: ['HUGE_FOR_FILE', 'TABLE_TOO_LARGE'],
    },
    { title: 'a table past the end', file: cloop((f) => f.u32(132, 2 ** 20)), finds: ['TRUNCATED'] },
    { title: 'a header that is cut off', file: cloop((f) => f.resize(130)), finds: ['TRUNCATED'] },
    { title: 'another version', file: cloop((f) => f.text(11, 'V3.0')), finds: ['UNKNOWN_VERSION'] },
  ]),
  {
    title: 'a format that is not allowed unless it is named',
    file: qed(),
    finds: ['FORMAT_NOT_ALLOWED'],
  },
]
