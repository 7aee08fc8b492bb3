import { expect, test } from 'vitest'
import { type Filesystem, type Partition, partitionFileName } from '../../../lib/index.ts'
import { randomTest } from '../../support/random.ts'

const PARTITION: Partition = {
  number: 2,
  start: 0,
  length: 512,
  type: '0x83',
  typeName: undefined,
  label: undefined,
  uuid: undefined,
  bootable: false,
  logical: false,
}

function ext4(label?: string): Filesystem {
  return { type: 'ext4', label, uuid: undefined, mountable: true, remark: undefined }
}

test.each<[string, Partial<Partition>, Filesystem | undefined]>([
  ['1-efi-system.vfat', { number: 1, typeName: 'EFI system' }, { ...ext4(), type: 'vfat' }],
  ['2-root.ext4', { label: 'root', typeName: 'Linux' }, ext4('other')],
  ['2-data.ext4', { typeName: 'Linux' }, ext4('Data')],
  ['5-linux.raw', { number: 5, typeName: 'Linux' }, undefined],
  ['2.raw', {}, undefined],
  ['2-linux.ext4', { label: '文件', typeName: 'Linux' }, ext4('...')],
  ['2-ubung-1.ext4', { label: 'Übung 1' }, ext4()],
  ['2-etc-passwd.ext4', { label: '../../etc/passwd' }, ext4()],
  ['2-31m-red.ext4', { label: '\u001b[31m\nred\u202e' }, ext4()],
  ['2-a-b.ext4', { label: '--a--b--' }, ext4()],
  [`2-${'x'.repeat(40)}.ext4`, { label: 'x'.repeat(5000) }, ext4()],
  [`2-${'x'.repeat(39)}.ext4`, { label: `${'x'.repeat(39)} y` }, ext4()],
])('%s', (name, partition, filesystem) => {
  expect(partitionFileName({ ...PARTITION, ...partition }, filesystem)).toBe(name)
})

randomTest('no label makes a name that a shell or a terminal could mistake', (random) => {
  for (let i = 0; i < 500; i++) {
    const label = String.fromCharCode(...Array.from({ length: random.below(60) }, () => random.below(65536)))
    const name = partitionFileName({ ...PARTITION, label }, ext4(label))
    expect(name).toMatch(/^2(-[a-z0-9]+)*\.ext4$/)
    expect(name.length).toBeLessThan(60)
  }
})
