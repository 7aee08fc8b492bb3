/** The part of binary-parser that struct.ts uses; its own declarations are not reachable from an ES module. */
declare module 'binary-parser' {
  interface Options {
    length?: number
    formatter?: (value: never) => unknown
  }
  export class Parser {
    uint8(name: string, options?: Options): this
    uint16be(name: string, options?: Options): this
    uint16le(name: string, options?: Options): this
    uint32be(name: string, options?: Options): this
    uint32le(name: string, options?: Options): this
    uint64be(name: string, options?: Options): this
    uint64le(name: string, options?: Options): this
    buffer(name: string, options: Options): this
    seek(length: number): this
    parse(bytes: Uint8Array): unknown
  }
}
