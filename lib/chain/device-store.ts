import type { Device } from '../contracts/device.ts'
import { type Awaitable, run } from '../io/io.ts'
import { type ByteStore, readOnly } from '../io/store.ts'

/** A disk that is read as a store: byte n of the disk is byte n of the store. Whoever has the disk closes it. */
export class DeviceStore implements ByteStore {
  readonly writable = false
  private readonly device: Device

  constructor(device: Device) {
    this.device = device
  }

  get name(): string {
    return this.device.name
  }

  size(): number {
    return this.device.size
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    return run(this.device.read(at, target))
  }

  write(): never {
    throw readOnly(this.name)
  }

  truncate(): never {
    throw readOnly(this.name)
  }

  grow(): never {
    throw readOnly(this.name)
  }

  flush(): void {}

  close(): void {}
}
