import fs from 'node:fs'
import net from 'node:net'
import { isVdiskError, messageOf } from '../../lib/index.ts'
import { faultOf } from '../fault.ts'
import {
  type ControlAnswer,
  type ControlRequest,
  HEARTBEAT,
  idOf,
  Lines,
  LONGEST_REQUEST,
  parseRequest,
} from './control-protocol.ts'

/** Bytes of a socket's path: less than any system allows. [unix(7)] */
const LONGEST_ADDRESS = 103

/** Who may be connected at once; more are told to come back. */
const MOST_CONNECTIONS = 16

/** A client that does not take its answer for so long, in milliseconds, is left. */
const STALLED = 10_000

/** A connection on which nothing is asked for so long, in milliseconds, is closed. */
const IDLE = 60_000

/**
 * Answers a request.
 *
 * @param tell gives a sign of how far it is
 * @param gone says that nobody waits for the answer any more
 */
export type ControlHandler = (
  request: ControlRequest,
  tell: (progress: object) => void,
  gone: AbortSignal,
) => Promise<object>

/**
 * The socket on which the server of a mount is asked.
 *
 * It lies in a folder that nobody else can look into, and only its owner may connect. Requests of one connection are
 * answered one after the other; while one is being answered, or an answer not being taken, nothing more is read from it.
 * So memory is bounded, and nobody who connects can hold up the disk or others who ask.
 */
export class ControlSocket {
  private readonly server: net.Server
  private readonly file: string
  private readonly handle: ControlHandler
  private readonly log: (message: string) => void
  private readonly connections = new Set<Connection>()

  private constructor(file: string, handle: ControlHandler, log: (message: string) => void) {
    this.file = file
    this.handle = handle
    this.log = log
    this.server = net.createServer((socket) => this.accept(socket))
    this.server.on('error', (error) => log(`The control socket: ${messageOf(error)}`))
  }

  /** Listens. What is at that place, left by a server that died, goes. */
  static async listen(file: string, handle: ControlHandler, log: (message: string) => void): Promise<ControlSocket> {
    // The system would cut it off, and listen somewhere else.
    if (Buffer.byteLength(file) > LONGEST_ADDRESS) throw new Error(`its path has more than ${LONGEST_ADDRESS} bytes`)
    fs.rmSync(file, { force: true })
    const control = new ControlSocket(file, handle, log)
    await new Promise<void>((resolve, reject) => {
      control.server.once('error', reject)
      control.server.listen(file, () => {
        control.server.off('error', reject)
        resolve()
      })
    })
    try {
      fs.chmodSync(file, 0o600)
    } catch (error) {
      // It would keep the process alive.
      control.close()
      throw error
    }
    return control
  }

  /** Stops listening; answers that are ready are still sent. */
  close(): void {
    this.server.close()
    for (const connection of this.connections) connection.end()
    fs.rmSync(this.file, { force: true })
  }

  private accept(socket: net.Socket): void {
    const connection = new Connection(socket, this.handle, this.log)
    if (this.connections.size >= MOST_CONNECTIONS) {
      connection.refuse(`there are ${MOST_CONNECTIONS} connections already`)
      return
    }
    this.connections.add(connection)
    socket.on('close', () => this.connections.delete(connection))
    void connection.serve()
  }
}

/** One client. */
class Connection {
  private readonly socket: net.Socket
  private readonly handle: ControlHandler
  private readonly log: (message: string) => void
  private readonly gone = new AbortController()
  private ending = false
  private busy = false

  constructor(socket: net.Socket, handle: ControlHandler, log: (message: string) => void) {
    this.socket = socket
    this.handle = handle
    this.log = log
    // A client that goes away is no fault.
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.gone.abort())
    socket.setTimeout(IDLE, () => {
      if (!this.busy) socket.destroy()
    })
  }

  /** Reads lines and answers them; ends with the connection. */
  async serve(): Promise<void> {
    const lines = new Lines(LONGEST_REQUEST)
    try {
      for await (const chunk of this.socket.iterator({ destroyOnReturn: false })) {
        for (const line of lines.push(chunk as Buffer)) await this.answer(line)
        if (this.ending) break
      }
    } catch (error) {
      if (!this.socket.destroyed) await this.send({ id: null, error: faultOf(error) })
    } finally {
      this.socket.destroy()
    }
  }

  /** Closes as soon as what is being answered is. */
  end(): void {
    this.ending = true
    if (!this.busy) this.socket.destroy()
  }

  refuse(why: string): void {
    this.socket.end(`${JSON.stringify({ id: null, error: { code: 'IN_USE', message: `Cannot connect: ${why}` } })}\n`)
  }

  private async answer(line: string): Promise<void> {
    if (line.trim() === '' || this.ending) return
    this.busy = true
    try {
      await this.send(await this.answerTo(line))
    } finally {
      this.busy = false
    }
  }

  private async answerTo(line: string): Promise<ControlAnswer> {
    let timer: NodeJS.Timeout | undefined
    try {
      const request = parseRequest(line)
      const { id } = request
      let last: object = {}
      const tell = (progress: object): void => {
        last = progress
        // Whoever does not read is not told more: it would only pile up.
        if (this.socket.writableLength === 0) this.socket.write(`${JSON.stringify({ id, progress })}\n`)
      }
      timer = setInterval(() => tell(last), HEARTBEAT)
      return { id, result: await this.handle(request, tell, this.gone.signal) }
    } catch (error) {
      // What is not one of our errors is a mistake of ours: its stack belongs in the log.
      if (!isVdiskError(error)) this.log(`Control: ${(error as Error).stack ?? messageOf(error)}`)
      return { id: idOf(line), error: faultOf(error) }
    } finally {
      clearInterval(timer)
    }
  }

  /** Returns when the client has taken it; one that does not is left. */
  private async send(answer: ControlAnswer): Promise<void> {
    const timer = setTimeout(() => this.socket.destroy(), STALLED)
    // Also called, with an error, where the connection is gone.
    await new Promise<void>((resolve) => {
      this.socket.write(`${JSON.stringify(answer)}\n`, () => resolve())
    })
    clearTimeout(timer)
  }
}
