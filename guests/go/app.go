// An application for wasm-serve: ordinary handlers of net/http, and work after the
// answer by deferred calls.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"app/wasmserve"
)

const (
	delayDefaultMs  = 5000
	fetchedBytesMax = 1 << 20
)

func main() {} // init is what runs

func init() {
	http.HandleFunc("/{$}", hello)
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/status", status)
	http.HandleFunc("/file", file)
	http.HandleFunc("/fetch", fetch)
	http.HandleFunc("/later", later)
	http.HandleFunc("/cancel", cancel)
	http.HandleFunc("/log", log)
	http.HandleFunc("/trap", trap)
	http.HandleFunc("/", notFound)
	wasmserve.OnDeferred(deferred)
	http.DefaultTransport = wasmserve.Transport{} // for http.Get
}

func hello(w http.ResponseWriter, r *http.Request) { text(w, http.StatusOK, "Hello World") }

func notFound(w http.ResponseWriter, r *http.Request) { text(w, http.StatusNotFound, "not found") }

func echo(w http.ResponseWriter, r *http.Request) {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	if _, err := io.Copy(w, r.Body); err != nil {
		panic(http.ErrAbortHandler) // half a body must not look like a whole one
	}
}

func status(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	code, err := strconv.Atoi(query.Get("code"))
	if err != nil || code < 200 || code > 599 {
		text(w, http.StatusBadRequest, "code is not a status from 200 to 599")
		return
	}
	header := http.Header{}
	for _, line := range query["header"] {
		name, value, found := strings.Cut(line, ":")
		if !found || !wasmserve.HeaderAllowed(name, value) {
			text(w, http.StatusBadRequest, "not a header that can be sent: "+line)
			return
		}
		header.Add(name, value)
	}
	maps.Copy(w.Header(), header)
	w.WriteHeader(code)
	if code != http.StatusNoContent && code != http.StatusNotModified {
		fmt.Fprint(w, code)
	}
}

func file(w http.ResponseWriter, r *http.Request) {
	content, err := os.ReadFile(r.URL.Query().Get("name"))
	if err != nil {
		text(w, http.StatusNotFound, err.Error())
		return
	}
	text(w, http.StatusOK, string(content))
}

func fetch(w http.ResponseWriter, r *http.Request) {
	answer, err := ask(r.URL.Query().Get("url"))
	if err != nil {
		text(w, http.StatusBadGateway, err.Error())
		return
	}
	text(w, http.StatusOK, answer)
}

// ask is what another server answers: its status, and its body.
func ask(url string) (string, error) {
	response, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, fetchedBytesMax))
	return fmt.Sprintf("%d %s", response.StatusCode, body), err
}

func later(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	delayMs, errDelay := number(query, "delay-ms", delayDefaultMs)
	count, errCount := number(query, "count", 1)
	size, errSize := number(query, "size", 0)
	if err := errors.Join(errDelay, errCount, errSize); err != nil {
		text(w, http.StatusBadRequest, err.Error())
		return
	}
	payload := []byte(query.Get("text"))
	if query.Has("size") {
		payload = bytes.Repeat([]byte("x"), int(size))
	}
	// A delay beyond what fits is beyond every limit too, and the host says so.
	delay := time.Duration(min(delayMs, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
	var id uint64
	for range count {
		var err error
		if id, err = wasmserve.CallLater(delay, payload); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error())
			return
		}
	}
	text(w, http.StatusOK, strconv.FormatUint(id, 10))
}

func cancel(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.URL.Query().Get("id"), 10, 64)
	if err != nil {
		text(w, http.StatusBadRequest, err.Error())
		return
	}
	text(w, http.StatusOK, strconv.FormatBool(wasmserve.Cancel(id)))
}

func log(w http.ResponseWriter, r *http.Request) {
	line := r.URL.Query().Get("text")
	fmt.Fprintln(os.Stdout, "out", line)
	fmt.Fprintln(os.Stderr, "err", line)
	text(w, http.StatusOK, "logged")
}

func trap(w http.ResponseWriter, r *http.Request) { panic("asked to die") }

func deferred(call wasmserve.DeferredCall) error {
	payload := string(call.Payload)
	fmt.Println("deferred", payload)
	if payload == "fail" {
		return errors.New("asked to fail")
	}
	if name, found := strings.CutPrefix(payload, "read "); found {
		return printLines(name)
	}
	if url, found := strings.CutPrefix(payload, "fetch "); found {
		answer, err := ask(url)
		if err == nil {
			fmt.Println("fetched", answer)
		}
		return err
	}
	return nil
}

// printLines writes all lines at once: each write is a call into the host.
func printLines(name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	k := 0
	for line := range strings.Lines(string(content)) {
		fmt.Fprintf(&out, "%d:%s\n", k, strings.TrimSuffix(line, "\n"))
		k++
	}
	_, err = out.WriteTo(os.Stdout)
	return err
}

// number is the value of a parameter, or otherwise if it is not given.
func number(query url.Values, name string, otherwise uint64) (uint64, error) {
	if !query.Has(name) {
		return otherwise, nil
	}
	return strconv.ParseUint(query.Get(name), 10, 64)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	io.WriteString(w, body)
}
