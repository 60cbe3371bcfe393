package wasmserve

import (
	"bytes"
	"fmt"
	"time"
	"unsafe"
)

// A DeferredCall is what a deferred call is given. The payload is the only state
// that passes from the request that scheduled it.
type DeferredCall struct {
	ID                 uint64
	Payload            []byte
	ScheduledAt, DueAt time.Time
	Attempt            uint32 // 1 at the first run
}

var onDeferred = func(DeferredCall) error { return fmt.Errorf("no function was given to OnDeferred") }

// OnDeferred registers what runs the deferred calls. An error is logged and counted.
func OnDeferred(run func(DeferredCall) error) { onDeferred = run }

// A ScheduleError tells why a call was not scheduled.
type ScheduleError struct {
	Name   string // payload-too-large, too-many-pending, delay-too-long or unavailable
	Limit  uint64 // bytes, calls or nanoseconds
	Reason string // of unavailable
}

func (e *ScheduleError) Error() string {
	if e.Reason != "" {
		return e.Name + " " + e.Reason
	}
	return fmt.Sprintf("%s %d", e.Name, e.Limit)
}

// In the order of the WIT's variant.
var scheduleErrors = [...]string{"payload-too-large", "too-many-pending", "delay-too-long", "unavailable"}

const unavailable = 3

// CallLater schedules a deferred call, not before the delay has passed. The call
// stands even if the request then fails. An error is a *ScheduleError.
func CallLater(delay time.Duration, payload []byte) (id uint64, err error) {
	receive()
	var result scheduleResult
	nanoseconds := uint64(max(delay, 0))
	timersCallLater(nanoseconds, unsafe.Pointer(unsafe.SliceData(payload)), uint32(len(payload)), &result)
	if !result.isError {
		return result.idOrKind, nil
	}
	kind := uint8(result.idOrKind)
	if kind == unavailable {
		return 0, &ScheduleError{Name: scheduleErrors[kind], Reason: result.reason().String()}
	}
	return 0, &ScheduleError{Name: scheduleErrors[kind], Limit: result.limit}
}

// Cancel reports whether the call will never run.
func Cancel(id uint64) bool { return timersCancel(id) != 0 }

// What the host reads after runDeferred has returned.
var (
	lastResult  runResult
	lastMessage string
)

//go:wasmexport wasm-serve:deferred/callback@0.1.0#run
func runDeferred(id uint64, at, length uint32, scheduledAt, dueAt uint64, attempt uint32) unsafe.Pointer {
	payload := bytes.Clone(span{at: at, length: length}.bytes())
	receive()
	err := onDeferred(DeferredCall{
		ID:          id,
		Payload:     payload,
		ScheduledAt: time.Unix(0, int64(scheduledAt)),
		DueAt:       time.Unix(0, int64(dueAt)),
		Attempt:     attempt,
	})
	lastResult, lastMessage = runResult{isError: err != nil}, ""
	if err != nil {
		lastMessage = err.Error()
		lastResult.message.at = uint32(uintptr(unsafe.Pointer(unsafe.StringData(lastMessage))))
		lastResult.message.length = uint32(len(lastMessage))
	}
	return unsafe.Pointer(&lastResult)
}
