package wasmserve

// What the host offers, as the component model's canonical ABI lays it out: what
// does not fit into one result is written to the address in the last parameter.
// Pointers are 32 bits wide there, and 64 in Go.

import (
	"structs"
	"unsafe"
)

// resource is the host's number for a request, a stream or the like. 0 is none.
type resource = int32

// span is a list or a text in this instance's memory.
type span struct {
	_          structs.HostLayout
	at, length uint32
}

type field struct {
	_           structs.HostLayout
	name, value span
}

type optionalText struct {
	_    structs.HostLayout
	some bool
	text span
}

type methodVariant struct {
	_     structs.HostLayout
	kind  uint8
	other span
}

type resourceResult struct {
	_       structs.HostLayout
	isError bool
	value   resource
}

// streamError is an error of a stream: 0 with a resource, which is to be dropped,
// or 1, the end.
type streamError struct {
	_     structs.HostLayout
	kind  uint8
	cause resource
}

// readResult has the bytes that were read, or a streamError in their place.
type readResult struct {
	_       structs.HostLayout
	isError bool
	bytes   span
}

func (r *readResult) error() *streamError { return (*streamError)(unsafe.Pointer(&r.bytes)) }

type writeResult struct {
	_       structs.HostLayout
	isError bool
	error   streamError
}

// roomResult has the bytes that may be written, or a streamError in their place.
type roomResult struct {
	_       structs.HostLayout
	isError bool
	bytes   uint64
}

func (r *roomResult) error() *streamError { return (*streamError)(unsafe.Pointer(&r.bytes)) }

type headerResult struct {
	_       structs.HostLayout
	isError bool
	error   uint8
}

// finishResult has an error with many cases, none of which is looked into.
type finishResult struct {
	_       structs.HostLayout
	isError bool
	error   [4]uint64
}

// handleResult has the response that is waited for, or an error with many cases in its
// place, of which only the first byte is looked into: which one it is.
type handleResult struct {
	_       structs.HostLayout
	isError bool
	value   [4]uint64
}

func (r *handleResult) future() resource { return *(*resource)(unsafe.Pointer(&r.value)) }

func (r *handleResult) errorCode() uint8 { return *(*uint8)(unsafe.Pointer(&r.value)) }

// responseResult is that within two more: whether it is there, and not taken before.
type responseResult struct {
	_       structs.HostLayout
	some    bool
	_       [7]byte
	taken   bool
	_       [7]byte
	isError bool
	value   [4]uint64
}

func (r *responseResult) response() resource { return *(*resource)(unsafe.Pointer(&r.value)) }

func (r *responseResult) errorCode() uint8 { return *(*uint8)(unsafe.Pointer(&r.value)) }

type scheduleResult struct {
	_       structs.HostLayout
	isError bool
	// The id of the call, or which error it is.
	idOrKind uint64
	// The limit; or the reason, a span.
	limit uint64
}

func (r *scheduleResult) reason() span { return *(*span)(unsafe.Pointer(&r.limit)) }

type runResult struct {
	_       structs.HostLayout
	isError bool
	message span
}

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-request.method
func incomingRequestMethod(request resource, result *methodVariant)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-request.path-with-query
func incomingRequestPathWithQuery(request resource, result *optionalText)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-request.authority
func incomingRequestAuthority(request resource, result *optionalText)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-request.headers
func incomingRequestHeaders(request resource) resource

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-request.consume
func incomingRequestConsume(request resource, result *resourceResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]incoming-request
func incomingRequestDrop(request resource)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-body.stream
func incomingBodyStream(body resource, result *resourceResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]incoming-body
func incomingBodyDrop(body resource)

//go:wasmimport wasi:http/types@0.2.12 [constructor]fields
func fieldsNew() resource

//go:wasmimport wasi:http/types@0.2.12 [method]fields.entries
func fieldsEntries(fields resource, result *span)

//go:wasmimport wasi:http/types@0.2.12 [method]fields.append
func fieldsAppend(fields resource, name, value string, result *headerResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]fields
func fieldsDrop(fields resource)

//go:wasmimport wasi:http/types@0.2.12 [constructor]outgoing-response
func outgoingResponseNew(headers resource) resource

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-response.set-status-code
func outgoingResponseSetStatusCode(response resource, status int32) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-response.body
func outgoingResponseBody(response resource, result *resourceResult)

//go:wasmimport wasi:http/outgoing-handler@0.2.12 handle
func outgoingHandlerHandle(request resource, hasOptions int32, options resource, result *handleResult)

//go:wasmimport wasi:http/types@0.2.12 [constructor]outgoing-request
func outgoingRequestNew(headers resource) resource

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-method
func outgoingRequestSetMethod(request resource, kind int32, other string) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-scheme
func outgoingRequestSetScheme(request resource, some, kind int32, other string) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-authority
func outgoingRequestSetAuthority(request resource, some int32, authority string) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.set-path-with-query
func outgoingRequestSetPathWithQuery(request resource, some int32, target string) int32

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-request.body
func outgoingRequestBody(request resource, result *resourceResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]outgoing-request
func outgoingRequestDrop(request resource)

//go:wasmimport wasi:http/types@0.2.12 [constructor]request-options
func requestOptionsNew() resource

//go:wasmimport wasi:http/types@0.2.12 [method]request-options.set-connect-timeout
func requestOptionsSetConnectTimeout(options resource, some int32, nanoseconds uint64) int32

//go:wasmimport wasi:http/types@0.2.12 [method]request-options.set-first-byte-timeout
func requestOptionsSetFirstByteTimeout(options resource, some int32, nanoseconds uint64) int32

//go:wasmimport wasi:http/types@0.2.12 [method]future-incoming-response.subscribe
func futureResponseSubscribe(future resource) resource

//go:wasmimport wasi:http/types@0.2.12 [method]future-incoming-response.get
func futureResponseGet(future resource, result *responseResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]future-incoming-response
func futureResponseDrop(future resource)

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-response.status
func incomingResponseStatus(response resource) int32

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-response.headers
func incomingResponseHeaders(response resource) resource

//go:wasmimport wasi:http/types@0.2.12 [method]incoming-response.consume
func incomingResponseConsume(response resource, result *resourceResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]incoming-response
func incomingResponseDrop(response resource)

//go:wasmimport wasi:http/types@0.2.12 [method]outgoing-body.write
func outgoingBodyWrite(body resource, result *resourceResult)

//go:wasmimport wasi:http/types@0.2.12 [static]outgoing-body.finish
func outgoingBodyFinish(body resource, hasTrailers, trailers int32, result *finishResult)

//go:wasmimport wasi:http/types@0.2.12 [resource-drop]outgoing-body
func outgoingBodyDrop(body resource)

// The parameters after the response are those of error codes.
//
//go:wasmimport wasi:http/types@0.2.12 [static]response-outparam.set
func responseOutparamSet(out resource, isError int32, response resource, _ int32, _ int64, _, _, _, _ int32)

//go:wasmimport wasi:io/streams@0.2.12 [method]input-stream.blocking-read
func inputStreamBlockingRead(stream resource, bytesMax uint64, result *readResult)

//go:wasmimport wasi:io/streams@0.2.12 [resource-drop]input-stream
func inputStreamDrop(stream resource)

//go:wasmimport wasi:io/streams@0.2.12 [method]output-stream.check-write
func outputStreamCheckWrite(stream resource, result *roomResult)

//go:wasmimport wasi:io/streams@0.2.12 [method]output-stream.write
func outputStreamWrite(stream resource, at unsafe.Pointer, length uint32, result *writeResult)

//go:wasmimport wasi:io/streams@0.2.12 [method]output-stream.subscribe
func outputStreamSubscribe(stream resource) resource

//go:wasmimport wasi:io/streams@0.2.12 [resource-drop]output-stream
func outputStreamDrop(stream resource)

//go:wasmimport wasi:io/poll@0.2.12 [method]pollable.block
func pollableBlock(pollable resource)

//go:wasmimport wasi:io/poll@0.2.12 [resource-drop]pollable
func pollableDrop(pollable resource)

//go:wasmimport wasi:io/error@0.2.12 [resource-drop]error
func ioErrorDrop(cause resource)

//go:wasmimport wasm-serve:deferred/timers@0.1.0 call-later
func timersCallLater(delay uint64, at unsafe.Pointer, length uint32, result *scheduleResult)

//go:wasmimport wasm-serve:deferred/timers@0.1.0 cancel
func timersCancel(id uint64) int32

// The host writes what it hands over, such as the headers of a request, to where
// cabi_realloc says, and meanwhile lets the instance call nothing. Go's allocator
// would: when it collects garbage, it asks for the time. So there is a fixed place.
// It is used anew by each call; what is kept of it is copied.
//
// The adapter that makes WASI 0.2 of Go's WASI 0.1 asks too, for its own memory,
// before Go's runtime has started. That stays.
const (
	handoverBytes = 1 << 20
	adapterBytes  = 1 << 18
)

var (
	handover      [handoverBytes + adapterBytes]byte
	handoverStart uint32
	handoverEnd   uint32
)

func init() { handoverStart = handoverEnd }

// receive is to be called before the host hands something over.
func receive() { handoverEnd = handoverStart }

// A host that has more to hand over than there is room for gets a trap.
//
//go:nosplit
//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldBytes, alignment, bytes uint32) unsafe.Pointer {
	at := (handoverEnd + alignment - 1) &^ (alignment - 1)
	handoverEnd = at + bytes
	_ = handover[at:handoverEnd]
	return unsafe.Add(unsafe.Pointer(&handover), at)
}

// bytes are valid until the next receive.
func (s span) bytes() []byte {
	if s.length == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(s.at))), s.length)
}

func (s span) String() string { return string(s.bytes()) }

// fields are the names and values of headers.
func (s span) fields() []field {
	if s.length == 0 {
		return nil
	}
	return unsafe.Slice((*field)(unsafe.Pointer(uintptr(s.at))), s.length)
}
