/*
 * The functions of wasm_serve.h, in terms of what the server offers to components.
 * Their parameters and results are laid out as the component model's canonical ABI
 * says: what does not fit into one result is written to the address in the last
 * parameter. C lays out structs and unions in the same way.
 */
#include "wasm_serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HTTP "wasi:http/types@0.2.12"
#define STREAMS "wasi:io/streams@0.2.12"
#define POLL "wasi:io/poll@0.2.12"
#define IO_ERROR "wasi:io/error@0.2.12"
#define TIMERS "wasm-serve:deferred/timers@0.1.0"

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name))) extern
#define EXPORT(name) __attribute__((export_name(name)))

/* A resource, such as a stream: the server's number for it. 0 is none. */
typedef int32_t handle_t;

struct bytes { char *at; size_t length; };
struct optional_bytes { uint8_t is_some; struct bytes bytes; };
struct list_of_bytes { struct bytes *at; size_t length; };
struct handle_result { uint8_t is_error; handle_t handle; };
struct header_result { uint8_t is_error, error; };
struct stream_error { uint8_t is_closed; handle_t error; };
struct read_result { uint8_t is_error; union { struct bytes bytes; struct stream_error error; }; };
struct write_result { uint8_t is_error; struct stream_error error; };
struct room_result { uint8_t is_error; union { uint64_t bytes; struct stream_error error; }; };
/* error-code has many cases, none of which we look into. */
struct finish_result { uint8_t is_error; uint64_t error[4]; };
struct schedule_result {
    uint8_t is_error;
    union {
        uint64_t id;
        struct { uint8_t kind; union { uint64_t limit; struct bytes reason; }; } error;
    };
};
struct run_result { uint8_t is_error; struct bytes message; };

IMPORT(HTTP, "[method]incoming-request.path-with-query")
void incoming_request_path_with_query(handle_t, struct optional_bytes *);
IMPORT(HTTP, "[method]incoming-request.headers")
handle_t incoming_request_headers(handle_t);
IMPORT(HTTP, "[method]incoming-request.consume")
void incoming_request_consume(handle_t, struct handle_result *);
IMPORT(HTTP, "[method]incoming-body.stream")
void incoming_body_stream(handle_t, struct handle_result *);
IMPORT(HTTP, "[constructor]fields")
handle_t fields_new(void);
IMPORT(HTTP, "[method]fields.get")
void fields_get(handle_t, const char *, size_t, struct list_of_bytes *);
IMPORT(HTTP, "[method]fields.append")
void fields_append(handle_t, const char *, size_t, const char *, size_t, struct header_result *);
IMPORT(HTTP, "[constructor]outgoing-response")
handle_t outgoing_response_new(handle_t headers);
IMPORT(HTTP, "[method]outgoing-response.set-status-code")
int32_t outgoing_response_set_status_code(handle_t, int32_t);
IMPORT(HTTP, "[method]outgoing-response.body")
void outgoing_response_body(handle_t, struct handle_result *);
IMPORT(HTTP, "[method]outgoing-body.write")
void outgoing_body_write(handle_t, struct handle_result *);
IMPORT(HTTP, "[static]outgoing-body.finish")
void outgoing_body_finish(handle_t, int32_t has_trailers, handle_t trailers, struct finish_result *);
/* The parameters after the response are those of error codes. */
IMPORT(HTTP, "[static]response-outparam.set")
void response_outparam_set(handle_t, int32_t is_error, handle_t response, int32_t, int64_t, int32_t, int32_t,
                           int32_t, int32_t);
IMPORT(HTTP, "[resource-drop]incoming-request")
void incoming_request_drop(handle_t);
IMPORT(HTTP, "[resource-drop]incoming-body")
void incoming_body_drop(handle_t);
IMPORT(HTTP, "[resource-drop]fields")
void fields_drop(handle_t);
IMPORT(HTTP, "[resource-drop]outgoing-response")
void outgoing_response_drop(handle_t);
IMPORT(HTTP, "[resource-drop]outgoing-body")
void outgoing_body_drop(handle_t);
IMPORT(HTTP, "[resource-drop]response-outparam")
void response_outparam_drop(handle_t);
IMPORT(STREAMS, "[method]input-stream.blocking-read")
void input_stream_blocking_read(handle_t, uint64_t bytes_max, struct read_result *);
IMPORT(STREAMS, "[method]output-stream.check-write")
void output_stream_check_write(handle_t, struct room_result *);
IMPORT(STREAMS, "[method]output-stream.write")
void output_stream_write(handle_t, const char *, size_t, struct write_result *);
IMPORT(STREAMS, "[method]output-stream.subscribe")
handle_t output_stream_subscribe(handle_t);
IMPORT(STREAMS, "[resource-drop]input-stream")
void input_stream_drop(handle_t);
IMPORT(STREAMS, "[resource-drop]output-stream")
void output_stream_drop(handle_t);
IMPORT(POLL, "[method]pollable.block")
void pollable_block(handle_t);
IMPORT(POLL, "[resource-drop]pollable")
void pollable_drop(handle_t);
IMPORT(IO_ERROR, "[resource-drop]error")
void io_error_drop(handle_t);
IMPORT(TIMERS, "call-later")
void timers_call_later(uint64_t, const char *, size_t, struct schedule_result *);
IMPORT(TIMERS, "cancel")
int32_t timers_cancel(uint64_t);

struct request { handle_t request, body, stream; };
struct response { handle_t outparam, headers, body, stream; };

static void close_stream(struct response *response);

EXPORT("wasi:http/incoming-handler@0.2.12#handle")
void incoming_handler_handle(handle_t incoming, handle_t outparam) {
    struct request request = {.request = incoming};
    struct response response = {.outparam = outparam, .headers = fields_new()};
    handle(&request, &response);
    fflush(stdout);
    /* Streams belong to bodies, and bodies to messages: they go first. */
    if (request.stream) input_stream_drop(request.stream);
    if (request.body) incoming_body_drop(request.body);
    incoming_request_drop(request.request);
    close_stream(&response);
    if (response.body) outgoing_body_drop(response.body);
    if (response.headers) fields_drop(response.headers);
    if (response.outparam) response_outparam_drop(response.outparam);
}

EXPORT("wasm-serve:deferred/callback@0.1.0#run")
struct run_result *callback_run(uint64_t id, char *payload, size_t payload_bytes, uint64_t scheduled_at,
                                uint64_t due_at, int32_t attempt) {
    const char *text = payload_bytes ? payload : "";
    const struct deferred_call call = {id, text, payload_bytes, scheduled_at, due_at, attempt};
    const char *error = deferred(&call);
    fflush(stdout);
    if (payload_bytes) free(payload);
    static struct run_result result;
    result.is_error = error != NULL;
    result.message = (struct bytes){(char *)error, error ? strlen(error) : 0};
    return &result;
}

/* The server's way to get memory for what it hands over. One byte more, a zero,
   lets it serve as a string. */
EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_bytes, size_t alignment, size_t bytes) {
    (void)old_bytes, (void)alignment; /* malloc aligns for every type */
    char *allocated = realloc(old, bytes + 1);
    if (!allocated) abort();
    allocated[bytes] = 0;
    return allocated;
}

/* An empty list may have no memory. */
static char *as_string(struct bytes bytes) {
    return bytes.length ? bytes.at : calloc(1, 1);
}

static void drop_error(struct stream_error error) {
    if (!error.is_closed) io_error_drop(error.error);
}

char *request_target(struct request *request) {
    struct optional_bytes target;
    incoming_request_path_with_query(request->request, &target);
    return target.is_some ? as_string(target.bytes) : strdup("");
}

char *request_header(struct request *request, const char *name) {
    handle_t headers = incoming_request_headers(request->request);
    struct list_of_bytes values;
    fields_get(headers, name, strlen(name), &values);
    fields_drop(headers);
    if (values.length == 0) return NULL;
    for (size_t i = 1; i < values.length; i++) {
        if (values.at[i].length) free(values.at[i].at);
    }
    char *first = as_string(values.at[0]);
    free(values.at);
    return first;
}

ptrdiff_t request_read(struct request *request, void *piece, size_t bytes_max) {
    if (!request->stream) {
        struct handle_result body, stream;
        incoming_request_consume(request->request, &body);
        request->body = body.handle;
        incoming_body_stream(request->body, &stream);
        request->stream = stream.handle;
    }
    struct read_result result;
    do {
        input_stream_blocking_read(request->stream, bytes_max, &result);
        if (result.is_error) {
            drop_error(result.error);
            return result.error.is_closed ? 0 : -1;
        }
    } while (result.bytes.length == 0);
    memcpy(piece, result.bytes.at, result.bytes.length);
    free(result.bytes.at);
    return result.bytes.length;
}

bool response_header(struct response *response, const char *name, const char *value) {
    if (!response->headers) return false;
    struct header_result result;
    fields_append(response->headers, name, strlen(name), value, strlen(value), &result);
    return !result.is_error;
}

bool response_start(struct response *response, int status) {
    if (!response->outparam) return false;
    handle_t outgoing = outgoing_response_new(response->headers);
    response->headers = 0;
    if (outgoing_response_set_status_code(outgoing, status) != 0) {
        outgoing_response_drop(outgoing);
        response->headers = fields_new();
        return false;
    }
    struct handle_result body, stream;
    outgoing_response_body(outgoing, &body);
    response->body = body.handle;
    outgoing_body_write(response->body, &stream);
    response->stream = stream.handle;
    response_outparam_set(response->outparam, 0, outgoing, 0, 0, 0, 0, 0, 0);
    response->outparam = 0;
    return true;
}

bool response_write(struct response *response, const void *piece, size_t bytes) {
    if (!response->stream) return false;
    const char *rest = piece;
    while (bytes > 0) {
        struct room_result room;
        output_stream_check_write(response->stream, &room);
        if (room.is_error) return drop_error(room.error), false;
        if (room.bytes == 0) {
            handle_t ready = output_stream_subscribe(response->stream);
            pollable_block(ready);
            pollable_drop(ready);
            continue;
        }
        size_t now = bytes < room.bytes ? bytes : room.bytes;
        struct write_result result;
        output_stream_write(response->stream, rest, now, &result);
        if (result.is_error) return drop_error(result.error), false;
        rest += now;
        bytes -= now;
    }
    return true;
}

void response_finish(struct response *response) {
    if (!response->body) return;
    close_stream(response);
    struct finish_result result;
    outgoing_body_finish(response->body, 0, 0, &result);
    response->body = 0;
}

static void close_stream(struct response *response) {
    if (response->stream) output_stream_drop(response->stream);
    response->stream = 0;
}

void response_text(struct response *response, int status, const char *text) {
    char length[24];
    snprintf(length, sizeof length, "%zu", strlen(text));
    response_header(response, "content-type", "text/plain");
    response_header(response, "content-length", length);
    if (!response_start(response, status)) return;
    response_write(response, text, strlen(text));
    response_finish(response);
}

struct scheduled call_later(uint64_t delay_nanoseconds, const void *payload, size_t payload_bytes) {
    struct schedule_result result;
    timers_call_later(delay_nanoseconds, payload, payload_bytes, &result);
    if (!result.is_error) return (struct scheduled){SCHEDULED, .id = result.id};
    struct scheduled refused = {PAYLOAD_TOO_LARGE + result.error.kind, .limit = result.error.limit};
    if (refused.error == UNAVAILABLE) refused.reason = as_string(result.error.reason);
    return refused;
}

bool cancel(uint64_t id) {
    return timers_cancel(id);
}
