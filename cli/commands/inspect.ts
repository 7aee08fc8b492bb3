import {
  ALLOWED_FORMATS,
  type Concern,
  formatSize,
  INSPECTED_FORMATS,
  type Judgement,
  judgeImage,
  MOST_DISK_BYTES,
} from '../../lib/index.ts'
import { toSize } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { fullSize, type Output, printable, type Style } from '../output.ts'

/** Exit codes of a verdict, with --untrusted. */
const VERDICT_EXIT: Record<Judgement['verdict'], number> = { accept: 0, refuse: 2, warn: 3 }

export const command = defineCommand({
  usage: '<image>',
  describe:
    'Tells whether an image can be used without knowing where it is from: whether it needs other files, is several things\nat once, is damaged, or would grow beyond measure. Nothing but the file is opened, and only a little of it is read.\nWithout --untrusted the same is told, and the exit code says nothing of it.',
  examples: [
    ['vdisk inspect upload.img --untrusted --format qcow2', 'what somebody sent, who says that it is qcow2'],
    ['vdisk inspect upload.vmdk --untrusted --max-size 100G', 'with a bound for the size of the disk'],
    [
      'vdisk inspect upload.img --untrusted --allow qcow2 --allow raw --json',
      'two formats only; findings for programs',
    ],
    ['vdisk inspect server.vhdx', 'what would be said of it elsewhere'],
  ],
  exitCodes: '0 nothing against it, 1 could not tell, 2 refused, 3 a person should look first, 130 interrupted',
  options: (yargs) =>
    yargs
      .positional('image', { type: 'string', demandOption: true })
      .option('untrusted', { type: 'boolean', default: false, describe: 'give a verdict, as exit code too' })
      .option('format', {
        alias: 'f',
        type: 'string',
        choices: INSPECTED_FORMATS,
        describe: 'what the image is said to be: anything else is refused',
      })
      .option('allow', {
        type: 'string',
        array: true,
        nargs: 1,
        default: [],
        describe: `a format that is allowed, in place of ${ALLOWED_FORMATS.join(', ')}`,
      })
      .option('max-size', {
        type: 'string',
        default: formatSize(MOST_DISK_BYTES).replace(/ |iB/g, ''),
        describe: 'the largest disk that is allowed',
      }),
  afterInterrupt: 'Nothing was changed. There is no verdict.',
  async run({ args, out, signal }) {
    const allow = args.allow.length === 0 ? ALLOWED_FORMATS : args.allow
    const maxSize = toSize(args['max-size'], '--max-size')
    const judgement = await judgeImage(args.image, { format: args.format, allow, maxSize, signal })
    const exit = args.untrusted ? VERDICT_EXIT[judgement.verdict] : EXIT.ok
    out.document({ ...judgement, exitCode: exit })
    print(out, judgement, args.untrusted)
    return exit
  },
})

const VERDICT_STYLE: Record<Judgement['verdict'], Style> = { accept: 'green', warn: 'yellow', refuse: 'red' }
const STYLE: Record<Concern['severity'], Style> = { refuse: 'red', warn: 'yellow', note: 'dim' }

function print(out: Output, judgement: Judgement, untrusted: boolean): void {
  const { verdict, image, size, fileSize, findings, candidates } = judgement
  const answer = out.paint(VERDICT_STYLE[verdict], answerOf(judgement))
  const what = `${candidates.join(' and ')}, ${size === undefined ? 'a disk of unknown size' : `disk of ${fullSize(size)}`}`
  const about = `${printable(image)}: ${what}, file of ${formatSize(fileSize)}`
  if (untrusted) out.line(`safe to use alone: ${answer}`)
  out.line(about)
  if (!untrusted) out.line(`from a stranger, safe to use alone: ${answer}`)
  for (const { severity, code, structure, at, message, advice } of findings) {
    const place = at === undefined ? structure : `${structure}, at ${at}`
    out.line(`${out.paint(STYLE[severity], severity.padEnd(6))}  ${code}  ${printable(place)}`)
    out.line(`    ${printable(message)}`)
    out.line(`    ${advice}`)
  }
}

function answerOf({ verdict, findings }: Judgement): string {
  if (verdict === 'accept') return 'yes'
  const count = findings.filter(({ severity }) => severity === verdict).length
  if (verdict === 'warn')
    return `perhaps, a person should look at ${count === 1 ? 'one thing' : `${count} things`} first`
  return `no, for ${count === 1 ? 'one reason' : `${count} reasons`}`
}
