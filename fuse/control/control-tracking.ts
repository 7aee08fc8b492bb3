import {
  type ChangedExtent,
  type ChangeMap,
  changeMapOf,
  checkpointOpen,
  disableOpen,
  enableOpen,
  oneByOne,
  parseToken,
  promised,
  sidecarOfImage,
  statusOf,
  type Token,
  VdiskError,
} from '../../lib/index.ts'
import { type ControlRequest, notUnderstood } from './control-protocol.ts'
import {
  type ControlTarget,
  diskOf,
  MOST_RUNS,
  numberIn,
  type ServedDisk,
  textIn,
  writtenFile,
} from './control-target.ts'

type Action = (served: ServedDisk, request: ControlRequest) => Promise<object>

const ACTIONS: Readonly<Record<string, Action>> = { enable, disable, status, checkpoint, changes }

/** Everything about the tracking of changes to a disk that is mounted. */
export async function track(target: ControlTarget, request: ControlRequest): Promise<object> {
  const action = ACTIONS[String(request.action)]
  if (!action) throw notUnderstood(`"action" must be one of: ${Object.keys(ACTIONS).join(', ')}`)
  return await action(diskOf(target, request), request)
}

async function enable(served: ServedDisk, request: ControlRequest): Promise<object> {
  const { held } = served
  const wish = {
    ...held.options,
    granularity: numberIn(request, 'granularity'),
    required: request.required === true,
    anew: request.anew === true,
    guard: request.guard === true ? true : undefined,
  }
  return { token: await promised(held.device.use((chain) => enableOpen(chain, writtenFile(served), wish))) }
}

async function disable(served: ServedDisk, request: ControlRequest): Promise<object> {
  const { held } = served
  const consumer = textIn(request, 'consumer')
  if (consumer !== undefined) await promised(mapOf(served).forget(consumer))
  else await promised(held.device.use((chain) => disableOpen(chain, writtenFile(served), held.options)))
  return {}
}

async function status(served: ServedDisk): Promise<object> {
  const { chain } = served.held
  return { ...statusOf(mapOf(served), chain, sidecarOfImage(writtenFile(served))) }
}

async function checkpoint(served: ServedDisk, request: ControlRequest): Promise<object> {
  const consumer = textIn(request, 'consumer')
  mapOf(served)
  return { token: await promised(served.held.device.use((chain) => checkpointOpen(chain, consumer))) }
}

/** A piece of what changed: whoever wants all of it asks again from `next` on. With `count` only how much it is, at once. */
async function changes(served: ServedDisk, request: ControlRequest): Promise<object> {
  const map = mapOf(served)
  const since = textIn(request, 'since')
  const token = since === undefined ? map.tokenOf(textIn(request, 'consumer')) : parseToken(since)
  const from = numberIn(request, 'from') ?? 0
  if (request.count === true) return await countOf(map, token, from)
  const extents: ChangedExtent[] = []
  let next: number | undefined
  const take = oneByOne((offset, length) => {
    if (extents.length < MOST_RUNS) extents.push({ offset, length })
    else next ??= offset
  })
  const answer = await promised(
    map.changes(
      token,
      (places) => {
        // What follows is asked for again.
        take(places.subarray(0, 2 * (MOST_RUNS - extents.length + 1)))
        return next === undefined
      },
      from,
    ),
  )
  return { ...answer, extents, next }
}

async function countOf(map: ChangeMap, token: Token | undefined, from: number): Promise<object> {
  let [count, bytes] = [0, 0]
  const add = oneByOne((_, length) => {
    count++
    bytes += length
  })
  return { ...(await promised(map.changes(token, add, from))), extents: [], count, bytes }
}

/** @throws VdiskError NOT_FOUND */
function mapOf(served: ServedDisk): ChangeMap {
  const map = changeMapOf(served.held.chain)
  if (map) return map
  const file = writtenFile(served)
  throw new VdiskError('NOT_FOUND', {
    message: `Cannot tell changes of ${file}: they are not tracked`,
    where: { file },
    advice: `Begin with: vdisk track enable ${file}`,
  })
}
