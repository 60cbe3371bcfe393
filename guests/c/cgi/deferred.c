/* Answers a request, and is run again five seconds later for the rest of the work. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DELAY_NANOSECONDS (INT64_C(5) * 1000000000)
#define PAYLOAD_BYTES_MAX 65536

/* An id, or an error below zero. */
__attribute__((import_module("wasm_serve"), import_name("call_later")))
int64_t call_later(int64_t delay_nanoseconds, const void *payload, int32_t payload_bytes);

static int answer(void);
static int deferred(const char *id);
static int64_t delay(const char *query);

int main(void) {
    const char *id = getenv("WASM_SERVE_DEFERRED");
    return id ? deferred(id) : answer();
}

static int answer(void) {
    const char *path = getenv("PATH_INFO");
    int64_t id = call_later(delay(getenv("QUERY_STRING")), path, (int32_t)strlen(path));
    if (id < 0) {
        printf("Status: 503 Service Unavailable\nContent-Type: text/plain\n\nnot deferred: %" PRId64 "\n", id);
    } else {
        printf("Content-Type: text/plain\n\n%" PRId64 "\n", id);
    }
    return 0;
}

/* `delay-ms=N` sets another delay. */
static int64_t delay(const char *query) {
    const char *parameter = query ? strstr(query, "delay-ms=") : NULL;
    return parameter ? atoll(parameter + strlen("delay-ms=")) * 1000000 : DELAY_NANOSECONDS;
}

/* The payload is on standard input; standard output is the server's log. */
static int deferred(const char *id) {
    char payload[PAYLOAD_BYTES_MAX];
    size_t bytes = fread(payload, 1, sizeof payload, stdin);
    printf("deferred %s: %.*s\n", id, (int)bytes, payload);
    return 0;
}
