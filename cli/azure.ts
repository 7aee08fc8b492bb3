import type { Argv } from 'yargs'
import { UsageError } from './usage-error.ts'

/** Declares `--azure`, for verbs that make images. */
export function azureOption<T>(yargs: Argv<T>): Argv<T & { azure: boolean }> {
  return yargs.option('azure', {
    type: 'boolean',
    default: false,
    describe: 'as Azure takes it: the same as --format vhd -o azure=on, a fixed VHD of whole MiB',
  }) as unknown as Argv<T & { azure: boolean }>
}

/**
 * The options of an image that is made, with what `--azure` says of it.
 *
 * @throws UsageError where it is to be of another format than Azure takes
 */
export function forAzure(
  verb: string,
  { azure, format }: { readonly azure: boolean; readonly format: string | undefined },
  options: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  if (!azure) return options
  if (format !== 'vhd') {
    throw new UsageError(
      `Cannot ${verb} with both --azure and --format ${format}: they exclude each other`,
      'Azure takes fixed VHD files only.',
    )
  }
  return { ...options, azure: 'on' }
}
