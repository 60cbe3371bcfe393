// Answers "Hello World", with the header fields of the other servers, by the
// standard library's net/http. GOMAXPROCS says how many threads run it.
package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	body := []byte("Hello World")
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		response.Header().Set("Content-Type", "text/html")
		response.Header().Set("Content-Length", "11")
		if _, err := response.Write(body); err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
