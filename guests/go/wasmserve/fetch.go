package wasmserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Transport is an http.RoundTripper: requests go by the server, which has TLS and decides
// where they may go. A program that sets it uses http.Get and every http.Client:
//
//	func init() { http.DefaultTransport = wasmserve.Transport{} }
//
// One that does not is 5 MB smaller. The deadline of a request's context, which is also
// that of http.Client's Timeout, holds for the head of the response. Its body can wait
// as long as the server allows.
type Transport struct{}

// A FetchError tells why there is no response, by its name in wasi:http, such as
// HTTP-request-denied.
type FetchError struct{ Name string }

func (e *FetchError) Error() string { return e.Name }

// Timeout makes it a net.Error.
func (e *FetchError) Timeout() bool { return strings.HasSuffix(e.Name, "-timeout") }

// Temporary makes it a net.Error.
func (e *FetchError) Temporary() bool { return e.Timeout() }

// In the order of the WIT's variant.
var errorCodes = [...]string{
	"DNS-timeout", "DNS-error", "destination-not-found", "destination-unavailable",
	"destination-IP-prohibited", "destination-IP-unroutable", "connection-refused",
	"connection-terminated", "connection-timeout", "connection-read-timeout",
	"connection-write-timeout", "connection-limit-reached", "TLS-protocol-error",
	"TLS-certificate-error", "TLS-alert-received", "HTTP-request-denied",
	"HTTP-request-length-required", "HTTP-request-body-size", "HTTP-request-method-invalid",
	"HTTP-request-URI-invalid", "HTTP-request-URI-too-long", "HTTP-request-header-section-size",
	"HTTP-request-header-size", "HTTP-request-trailer-section-size", "HTTP-request-trailer-size",
	"HTTP-response-incomplete", "HTTP-response-header-section-size", "HTTP-response-header-size",
	"HTTP-response-body-size", "HTTP-response-trailer-section-size", "HTTP-response-trailer-size",
	"HTTP-response-transfer-coding", "HTTP-response-content-coding", "HTTP-response-timeout",
	"HTTP-upgrade-failed", "HTTP-protocol-error", "loop-detected", "configuration-error", "internal-error",
}

// RoundTrip sends the whole body before it waits for the response.
func (Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body != nil {
		defer request.Body.Close()
	}
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	if request.Host != "" && request.Host != request.URL.Host {
		return nil, errors.New("the host of a request is that of its URL")
	}
	outgoing, body, err := newOutgoing(request)
	if err != nil {
		return nil, err
	}
	receive()
	var result handleResult
	outgoingHandlerHandle(outgoing, 1, requestOptions(request), &result)
	if result.isError {
		body.abort()
		return nil, failure(request, result.errorCode())
	}
	if err := send(request, body); err != nil {
		futureResponseDrop(result.future())
		return nil, err
	}
	incoming, err := wait(request, result.future())
	if err != nil {
		return nil, err
	}
	return newResponse(request, incoming), nil
}

func newOutgoing(request *http.Request) (resource, *bodyWriter, error) {
	header := request.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if request.ContentLength > 0 {
		header.Set("Content-Length", strconv.FormatInt(request.ContentLength, 10))
	}
	outgoing := outgoingRequestNew(newFields(header))
	scheme := int32(1)
	if request.URL.Scheme == "http" {
		scheme = 0
	} else if request.URL.Scheme != "https" {
		outgoingRequestDrop(outgoing)
		return 0, nil, fmt.Errorf("%q is no scheme of HTTP", request.URL.Scheme)
	}
	kind, other := methodKind(request.Method)
	refused := outgoingRequestSetMethod(outgoing, kind, other) |
		outgoingRequestSetScheme(outgoing, 1, scheme, "") |
		outgoingRequestSetAuthority(outgoing, 1, request.URL.Host) |
		outgoingRequestSetPathWithQuery(outgoing, 1, request.URL.RequestURI())
	if refused != 0 {
		outgoingRequestDrop(outgoing)
		return 0, nil, errors.New("the method or the URL is malformed")
	}
	var body resourceResult
	outgoingRequestBody(outgoing, &body)
	return outgoing, newBodyWriter(body.value), nil
}

func methodKind(method string) (int32, string) {
	if method == "" {
		method = http.MethodGet
	}
	for kind, name := range methods {
		if name == method {
			return int32(kind), ""
		}
	}
	return int32(len(methods)), method
}

func requestOptions(request *http.Request) resource {
	options := requestOptionsNew()
	if deadline, some := request.Context().Deadline(); some {
		left := uint64(max(time.Until(deadline), time.Millisecond))
		requestOptionsSetConnectTimeout(options, 1, left)
		requestOptionsSetFirstByteTimeout(options, 1, left)
	}
	return options
}

// A server that takes no more of a body says why in its response. A body that cannot be
// read is not sent as if it were whole.
func send(request *http.Request, body *bodyWriter) error {
	if request.Body != nil {
		if _, err := io.Copy(body, request.Body); errors.Is(err, io.ErrClosedPipe) {
			body.abort()
			return nil
		} else if err != nil {
			body.abort()
			return err
		}
	}
	body.finish()
	return nil
}

func wait(request *http.Request, future resource) (resource, error) {
	ready := futureResponseSubscribe(future)
	pollableBlock(ready)
	pollableDrop(ready)
	receive()
	var result responseResult
	futureResponseGet(future, &result)
	futureResponseDrop(future)
	if result.isError {
		return 0, failure(request, result.errorCode())
	}
	return result.response(), nil
}

// The time may be over before Go's own timers have seen it, since all stands still meanwhile.
func failure(request *http.Request, code uint8) error {
	if deadline, some := request.Context().Deadline(); some && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return &FetchError{errorCodes[code]}
}

func newResponse(request *http.Request, incoming resource) *http.Response {
	status := int(incomingResponseStatus(incoming))
	header := newHeader(incomingResponseHeaders(incoming))
	length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		length = -1
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", status, http.StatusText(status)),
		StatusCode:    status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          &responseBody{bodyReader{message: incoming, consume: incomingResponseConsume}},
		ContentLength: length,
		Request:       request,
	}
}

// responseBody lets go of its response when it is closed.
type responseBody struct{ bodyReader }

func (b *responseBody) Close() error {
	if !b.closed {
		b.drop()
		incomingResponseDrop(b.message)
	}
	return nil
}
