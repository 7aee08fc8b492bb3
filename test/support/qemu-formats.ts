/** What QEMU calls the formats that it reads and makes. */
export const QEMU_FORMATS: Readonly<Record<string, string>> = {
  qcow2: 'qcow2',
  vhdx: 'vhdx',
  vhd: 'vpc',
  vmdk: 'vmdk',
  vdi: 'vdi',
  parallels: 'parallels',
  raw: 'raw',
}
