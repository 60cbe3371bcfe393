/*
 * What a guest in C needs of wasi:http 0.2 and of wasm-serve:deferred. Write the
 * functions `handle` and `deferred`; wasm_serve.c calls them.
 *
 * Files, the environment, the clock and standard output are those of <stdio.h> and
 * its neighbours.
 */
#ifndef WASM_SERVE_H
#define WASM_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request;
struct response;

struct deferred_call {
    uint64_t id;
    const char *payload; /* a zero follows it */
    size_t payload_bytes;
    uint64_t scheduled_at, due_at; /* nanoseconds since 1970 */
    uint32_t attempt;              /* 1 at the first run */
};

/* Yours: answers a request. If it returns before response_start, the client gets a
   500; if it returns before response_finish, the transfer breaks. */
void handle(struct request *request, struct response *response);

/* Yours: runs a deferred call. Returns NULL, or what went wrong, which must still
   be there afterwards: a literal, or a static array. */
const char *deferred(const struct deferred_call *call);

/* The path and the query as they came: "/echo?a=b". The caller frees it. */
char *request_target(struct request *request);

/* The first value of a header, or NULL. The caller frees it. */
char *request_header(struct request *request, const char *name);

/* Waits for a piece of the body and copies it: its length, 0 at the end, -1 if
   the client broke off. */
ptrdiff_t request_read(struct request *request, void *piece, size_t bytes_max);

/* Adds a header, before response_start. False if its name or value is not allowed. */
bool response_header(struct response *response, const char *name, const char *value);

/* The status and the headers. False if there is no such status, which forgets the
   headers, or if the response has begun. */
bool response_start(struct response *response, int status);

/* A piece of the body; waits until the client has taken enough of what came
   before. False if the client is gone. */
bool response_write(struct response *response, const void *piece, size_t bytes);

/* The response is complete. */
void response_finish(struct response *response);

/* A whole response, of plain text. */
void response_text(struct response *response, int status, const char *text);

enum schedule_error {
    SCHEDULED,
    PAYLOAD_TOO_LARGE, /* limit: bytes */
    TOO_MANY_PENDING,  /* limit: calls */
    DELAY_TOO_LONG,    /* limit: nanoseconds */
    UNAVAILABLE,       /* reason: the caller frees it */
};

struct scheduled {
    enum schedule_error error;
    union {
        uint64_t id; /* if there is no error */
        uint64_t limit;
        char *reason;
    };
};

/* Schedules a run of `deferred`, not before the delay has passed. */
struct scheduled call_later(uint64_t delay_nanoseconds, const void *payload, size_t payload_bytes);

/* True if and only if the call will never run. */
bool cancel(uint64_t id);

#endif
