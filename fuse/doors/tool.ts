import { spawn } from 'node:child_process'

/** A program that does for us what only it may do, or does best. */
export interface Tool {
  readonly command: string
  /** the Debian package it is in */
  readonly package: string
}

export interface ToolResult {
  readonly status: number
  /** what it said about its failure, on one line */
  readonly words: string
  /** what it printed */
  readonly output?: string
}

/** The status of a program that could not be started, as shells have it. */
export const MISSING = 127

/** The number under which a program gets the descriptor that is handed to it. */
export const HANDED_OVER = 3

/** Runs a program to its end. Never in the foreground: it may ask the very mount that this process serves. */
export function runTool(
  tool: Tool,
  args: readonly string[],
  options: { readonly handedOver?: number; readonly environment?: NodeJS.ProcessEnv } = {},
): Promise<ToolResult> {
  const { handedOver, environment = {} } = options
  return new Promise((resolve) => {
    const child = spawn(tool.command, args, {
      stdio: ['ignore', 'pipe', 'pipe', ...(handedOver === undefined ? [] : [handedOver])],
      env: { ...toolEnvironment(), ...environment },
    })
    let words = ''
    let output = ''
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      output += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      words += text
    })
    child.on('error', (error: NodeJS.ErrnoException) =>
      resolve({
        status: MISSING,
        words: error.code === 'ENOENT' ? `${tool.command} is not installed` : error.message,
      }),
    )
    child.on('close', (status) =>
      resolve({
        status: status ?? 1,
        words: onOneLine(words) || `${tool.command} ended with status ${status}`,
        output,
      }),
    )
  })
}

/** Their words are looked at, so they should not be translated; and some lie where the path of few people leads. */
export function toolEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`, LC_ALL: 'C' }
}

export function onOneLine(words: string): string {
  return words.trim().replace(/\s*\n\s*/g, '; ')
}
