// Package wasmserve lets the server wasm-serve run handlers of net/http, and defers
// work: a deferred call runs after the request that asked for it, in any instance.
//
// A program registers its functions in init; main is never called:
//
//	func init() {
//		wasmserve.Handle(http.HandlerFunc(hello))
//		wasmserve.OnDeferred(run)
//	}
package wasmserve

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unsafe"
)

var handler http.Handler = http.DefaultServeMux

// Handle registers what answers requests. Without it, http.DefaultServeMux does.
func Handle(h http.Handler) { handler = h }

// HeaderAllowed reports whether the host lets a response have this header. One that
// it does not allow, such as Connection, which is the server's, is left out.
func HeaderAllowed(name, value string) bool {
	fields := fieldsNew()
	defer fieldsDrop(fields)
	var result headerResult
	fieldsAppend(fields, name, value, &result)
	return !result.isError
}

//go:wasmexport wasi:http/incoming-handler@0.2.12#handle
func handle(incoming, out resource) {
	body := &bodyReader{message: incoming, consume: incomingRequestConsume}
	response := &responseWriter{out: out, header: http.Header{}}
	request, err := newRequest(incoming, body)
	if err != nil {
		response.WriteHeader(http.StatusBadRequest)
	} else {
		response.serve(request)
	}
	body.drop()
	incomingRequestDrop(incoming)
}

func newRequest(incoming resource, body *bodyReader) (*http.Request, error) {
	receive()
	var target, authority optionalText
	incomingRequestPathWithQuery(incoming, &target)
	incomingRequestAuthority(incoming, &authority)
	uri, host := target.text.String(), authority.text.String()
	parsed, err := url.ParseRequestURI(uri)
	if err != nil {
		return nil, err
	}
	header := newHeader(incomingRequestHeaders(incoming))
	return &http.Request{
		Method:        method(incoming),
		URL:           parsed,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          body,
		ContentLength: contentLength(header),
		Host:          host,
		RemoteAddr:    header.Get("X-Forwarded-For"),
		RequestURI:    uri,
	}, nil
}

// In the order of the WIT's variant.
var methods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

func method(incoming resource) string {
	receive()
	var method methodVariant
	incomingRequestMethod(incoming, &method)
	if int(method.kind) < len(methods) {
		return methods[method.kind]
	}
	return method.other.String()
}

func newHeader(fields resource) http.Header {
	defer fieldsDrop(fields)
	receive()
	var entries span
	fieldsEntries(fields, &entries)
	header := http.Header{}
	for _, entry := range entries.fields() {
		header.Add(entry.name.String(), entry.value.String())
	}
	return header
}

func contentLength(header http.Header) int64 {
	if length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64); err == nil {
		return length
	}
	if header.Get("Transfer-Encoding") == "" {
		return 0
	}
	return -1
}

// What is read of a body at once, at most.
const pieceBytes = 1 << 16

// bodyReader reads the body of a message, which the host has piece by piece.
type bodyReader struct {
	message, body, stream resource
	consume               func(message resource, result *resourceResult)
	closed                bool
}

func (b *bodyReader) Read(piece []byte) (int, error) {
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(piece) == 0 {
		return 0, nil
	}
	if b.stream == 0 {
		b.open()
	}
	receive()
	var result readResult
	inputStreamBlockingRead(b.stream, uint64(min(len(piece), pieceBytes)), &result)
	if !result.isError {
		return copy(piece, result.bytes.bytes()), nil
	}
	if result.error().ended() {
		return 0, io.EOF
	}
	return 0, io.ErrUnexpectedEOF
}

func (b *bodyReader) open() {
	var body, stream resourceResult
	b.consume(b.message, &body)
	incomingBodyStream(body.value, &stream)
	b.body, b.stream = body.value, stream.value
}

func (b *bodyReader) Close() error {
	b.closed = true
	return nil
}

// A stream belongs to its body, and the body to its message: they go in this order.
func (b *bodyReader) drop() {
	b.closed = true
	if b.stream != 0 {
		inputStreamDrop(b.stream)
		incomingBodyDrop(b.body)
	}
}

// responseWriter sends what is written at once; it buffers nothing.
type responseWriter struct {
	out    resource
	header http.Header
	body   *bodyWriter
}

// serve runs the handler and completes the response. After http.ErrAbortHandler the
// transfer breaks instead; any other panic ends the instance.
func (w *responseWriter) serve(request *http.Request) {
	defer func() {
		switch cause := recover(); cause {
		case nil:
			w.finish()
		case http.ErrAbortHandler:
			w.abort()
		default:
			panic(cause)
		}
	}()
	handler.ServeHTTP(w, request)
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	if w.out == 0 || status >= 100 && status < 200 {
		return
	}
	response := outgoingResponseNew(newFields(w.header))
	if outgoingResponseSetStatusCode(response, int32(status)) != 0 {
		panic(fmt.Sprintf("invalid WriteHeader code %d", status))
	}
	var body resourceResult
	outgoingResponseBody(response, &body)
	w.body = newBodyWriter(body.value)
	responseOutparamSet(w.out, 0, response, 0, 0, 0, 0, 0, 0)
	w.out = 0
}

func newFields(header http.Header) resource {
	fields := fieldsNew()
	for name, values := range header {
		for _, value := range values {
			var result headerResult
			fieldsAppend(fields, strings.ToLower(name), value, &result)
		}
	}
	return fields
}

func (w *responseWriter) Write(piece []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(piece)
}

// Flush sends the head; what was written has left already.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

func (w *responseWriter) finish() {
	w.WriteHeader(http.StatusOK)
	w.body.finish()
}

func (w *responseWriter) abort() {
	if w.body != nil {
		w.body.abort()
	}
}

// bodyWriter writes the body of a message.
type bodyWriter struct{ body, stream resource }

func newBodyWriter(body resource) *bodyWriter {
	var stream resourceResult
	outgoingBodyWrite(body, &stream)
	return &bodyWriter{body: body, stream: stream.value}
}

func (w *bodyWriter) Write(piece []byte) (int, error) {
	written := 0
	for written < len(piece) {
		room, err := w.room()
		if err != nil {
			return written, err
		}
		now := piece[written:min(len(piece), written+room)]
		var result writeResult
		outputStreamWrite(w.stream, unsafe.Pointer(unsafe.SliceData(now)), uint32(len(now)), &result)
		if result.isError {
			result.error.ended()
			return written, io.ErrClosedPipe
		}
		written += len(now)
	}
	return written, nil
}

// room waits until the other side has taken enough of what was written before.
func (w *bodyWriter) room() (int, error) {
	for {
		var result roomResult
		outputStreamCheckWrite(w.stream, &result)
		if result.isError {
			result.error().ended()
			return 0, io.ErrClosedPipe
		}
		if result.bytes > 0 {
			return int(result.bytes), nil
		}
		ready := outputStreamSubscribe(w.stream)
		pollableBlock(ready)
		pollableDrop(ready)
	}
}

func (w *bodyWriter) finish() {
	outputStreamDrop(w.stream)
	var result finishResult
	outgoingBodyFinish(w.body, 0, 0, &result)
}

// abort breaks the message off.
func (w *bodyWriter) abort() {
	outputStreamDrop(w.stream)
	outgoingBodyDrop(w.body)
}

// ended reports whether the stream has ended well, and drops the error if not.
func (e *streamError) ended() bool {
	if e.kind == 1 {
		return true
	}
	ioErrorDrop(e.cause)
	return false
}
