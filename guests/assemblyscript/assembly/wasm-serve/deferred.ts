// Work after the answer: `wasm-serve:deferred`.
import { result, takeBytes, takeText } from "./abi";

@external("wasm-serve:deferred/timers@0.1.0", "call-later")
declare function scheduleCall(delay: u64, payload: usize, bytes: usize, result: usize): void;
@external("wasm-serve:deferred/timers@0.1.0", "cancel")
declare function cancelCall(id: u64): bool;

export class DeferredCall {
  payload: Uint8Array;

  /** Times are nanoseconds since 1970; the attempt is 1 at the first run. */
  constructor(
    public id: u64, payload: usize, bytes: usize, public scheduledAt: u64, public dueAt: u64, public attempt: u32,
  ) {
    this.payload = takeBytes(payload, bytes);
  }
}

export class Scheduled {
  /** Names the call, if there is no error. */
  id: u64 = 0;
  /** `payload-too-large` or another name of the contract, and its value after a space. */
  error: string | null = null;
}

const LIMITS: StaticArray<string> = ["payload-too-large", "too-many-pending", "delay-too-long"];

/** Schedules a run of the callback, not before so many nanoseconds have passed. */
export function callLater(delay: u64, payload: Uint8Array): Scheduled {
  const scheduled = new Scheduled();
  scheduleCall(delay, payload.dataStart, payload.length, result);
  if (load<u8>(result) == 0) {
    scheduled.id = load<u64>(result, 8);
    return scheduled;
  }
  const kind = load<u8>(result, 8);
  if (i32(kind) < LIMITS.length) {
    scheduled.error = `${LIMITS[kind]} ${load<u64>(result, 16)}`;
  } else {
    scheduled.error = `unavailable ${takeText(load<usize>(result, 16), load<usize>(result, 20))}`;
  }
  return scheduled;
}

/** True if and only if the call will never run. */
export function cancel(id: u64): bool {
  return cancelCall(id);
}

/** Runs a deferred call; gives back what went wrong. */
export type Callback = (call: DeferredCall) => string | null;

export let callback: Callback = (call: DeferredCall): string | null => "there is no callback";

/** Says which function runs deferred calls. */
export function onDeferred(run: Callback): void {
  callback = run;
}
