package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"app/wasmserve"
)

func main() {} // init is what runs

func init() {
	http.HandleFunc("/", hello)
	wasmserve.OnDeferred(deferred)
}

// hello answers, and defers the rest of the work: it begins five seconds later, in any
// instance. Only the payload passes from here to there.
func hello(w http.ResponseWriter, r *http.Request) {
	if _, err := wasmserve.CallLater(5*time.Second, []byte(r.URL.Path)); err != nil {
		fmt.Fprintln(os.Stderr, "not deferred:", err)
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintln(w, "Hello World")
}

// deferred runs the deferred call. Standard output is the server's log.
func deferred(call wasmserve.DeferredCall) error {
	fmt.Printf("deferred: %s\n", call.Payload)
	return nil
}
