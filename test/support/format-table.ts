import type { FormatDriver } from '../../lib/contracts/driver.ts'

/** What can be done with images of a format, and the word for it in the table. */
export const ABILITIES = [
  'read',
  'write',
  'create',
  'child',
  'resize',
  'check',
  'repair',
  'discard',
  'snapshots',
  'bitmaps',
] as const

export type Ability = (typeof ABILITIES)[number]

/** What a driver says that it can do; 'read': only with files that others have made. */
export function abilityOf(driver: FormatDriver, ability: Ability): 'yes' | 'read' | 'no' {
  const { supports, create, checks, repair } = driver
  const says: Record<Ability, boolean> = {
    read: true,
    write: supports.write,
    create: supports.create && create !== undefined,
    child: supports.parent,
    resize: supports.write,
    check: checks,
    repair: repair !== undefined,
    discard: supports.write && supports.erase,
    snapshots: supports.snapshots,
    bitmaps: supports.bitmaps,
  }
  if (!says[ability]) return 'no'
  const onlyRead = (ability === 'child' || ability === 'snapshots' || ability === 'bitmaps') && !supports.write
  return onlyRead ? 'read' : 'yes'
}

/** The table of the documentation. */
export function formatTable(drivers: readonly FormatDriver[]): string {
  const rows = [...drivers]
    .sort((a, b) => a.name.localeCompare(b.name))
    .map((driver) => [
      driver.name,
      ...ABILITIES.map((ability) => ({ yes: '✓', read: 'read', no: '-' })[abilityOf(driver, ability)]),
    ])
  return [['format', ...ABILITIES], ['---', ...ABILITIES.map(() => '---')], ...rows]
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n')
}
