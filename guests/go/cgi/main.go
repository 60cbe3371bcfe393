// A program for CGI: it serves one request by net/http/cgi and ends. For a deferred call
// it is run again.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"strconv"
	"time"
	"unsafe"
)

const delayDefault = 5 * time.Second

// callLater gives an id, or an error below zero.
//
//go:wasmimport wasm_serve call_later
func callLater(delay int64, payload unsafe.Pointer, bytes int32) int64

func main() {
	var err error
	if id, isDeferred := os.LookupEnv("WASM_SERVE_DEFERRED"); isDeferred {
		err = deferred(id)
	} else {
		err = cgi.Serve(http.HandlerFunc(answer))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	payload := []byte(r.URL.Path)
	id := callLater(int64(delay(r)), unsafe.Pointer(unsafe.SliceData(payload)), int32(len(payload)))
	if id < 0 {
		http.Error(w, fmt.Sprint("not deferred: ", id), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintln(w, id)
}

// delay is that of the parameter delay-ms, if there is one.
func delay(r *http.Request) time.Duration {
	milliseconds, err := strconv.ParseInt(r.URL.Query().Get("delay-ms"), 10, 32)
	if err != nil {
		return delayDefault
	}
	return time.Duration(milliseconds) * time.Millisecond
}

// deferred has the payload on standard input; standard output is the server's log.
func deferred(id string) error {
	payload, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("deferred %s: %s\n", id, payload)
	return err
}
