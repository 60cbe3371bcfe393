/*
 * The example that wasm-serve has in every language: one small route for each thing
 * that a guest can do.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wasm_serve.h"

#define PARAMETERS_MAX 64

struct query {
    size_t count;
    struct { const char *name, *value; } parameters[PARAMETERS_MAX];
};

static void echo(struct request *request, struct response *response);
static void status(const struct query *query, struct response *response);
static void file(const struct query *query, struct response *response);
static void later(const struct query *query, struct response *response);
static void cancel_call(const struct query *query, struct response *response);
static void log_text(const struct query *query, struct response *response);
static struct query parse(char *text);
static const char *value(const struct query *query, const char *name, const char *otherwise);
static bool number(const char *text, uint64_t *number);

void handle(struct request *request, struct response *response) {
    char *target = request_target(request);
    char *text = target + strcspn(target, "?");
    if (*text) *text++ = 0;
    struct query query = parse(text);
    const char *path = target;
    if (strcmp(path, "/") == 0) response_text(response, 200, "Hello World");
    else if (strcmp(path, "/echo") == 0) echo(request, response);
    else if (strcmp(path, "/status") == 0) status(&query, response);
    else if (strcmp(path, "/file") == 0) file(&query, response);
    else if (strcmp(path, "/later") == 0) later(&query, response);
    else if (strcmp(path, "/cancel") == 0) cancel_call(&query, response);
    else if (strcmp(path, "/log") == 0) log_text(&query, response);
    else if (strcmp(path, "/trap") == 0) abort();
    else response_text(response, 404, "not found");
    free(target);
}

/* Sends the body back piece by piece, as it arrives. */
static void echo(struct request *request, struct response *response) {
    char *type = request_header(request, "content-type");
    if (type) response_header(response, "content-type", type);
    free(type);
    response_start(response, 200);
    static char piece[64 << 10];
    ptrdiff_t bytes;
    while ((bytes = request_read(request, piece, sizeof piece)) > 0) {
        if (!response_write(response, piece, bytes)) return;
    }
    /* If the body broke off, so does the response: without its end, nobody takes
       it for the whole. */
    if (bytes == 0) response_finish(response);
}

static void status(const struct query *query, struct response *response) {
    uint64_t code;
    if (!number(value(query, "code", ""), &code) || code < 200 || code > 599) {
        return response_text(response, 400, "code is not a number from 200 to 599");
    }
    for (size_t i = 0; i < query->count; i++) {
        if (strcmp(query->parameters[i].name, "header") != 0) continue;
        char *name = strdup(query->parameters[i].value);
        char *colon = strchr(name, ':');
        if (colon) *colon = 0;
        bool added = colon && response_header(response, name, colon + 1);
        free(name);
        if (!added) return response_text(response, 400, "header is not NAME:VALUE, or not allowed");
    }
    char body[8];
    int length = snprintf(body, sizeof body, "%d", (int)code);
    response_start(response, (int)code);
    if (code != 204 && code != 304) response_write(response, body, length);
    response_finish(response);
}

static void file(const struct query *query, struct response *response) {
    static char piece[64 << 10];
    FILE *file = fopen(value(query, "name", ""), "r");
    size_t bytes = file ? fread(piece, 1, sizeof piece, file) : 0;
    if (!file || ferror(file)) {
        response_text(response, 404, strerror(errno));
    } else {
        response_header(response, "content-type", "text/plain");
        response_start(response, 200);
        while (bytes > 0 && response_write(response, piece, bytes)) {
            bytes = fread(piece, 1, sizeof piece, file);
        }
        if (!ferror(file)) response_finish(response);
    }
    if (file) fclose(file);
}

static void refuse(struct response *response, struct scheduled refused) {
    const char *names[] = {
        [PAYLOAD_TOO_LARGE] = "payload-too-large",
        [TOO_MANY_PENDING] = "too-many-pending",
        [DELAY_TOO_LONG] = "delay-too-long",
    };
    char text[256];
    if (refused.error == UNAVAILABLE) {
        snprintf(text, sizeof text, "unavailable %s", refused.reason);
        free(refused.reason);
    } else {
        snprintf(text, sizeof text, "%s %llu", names[refused.error], refused.limit);
    }
    response_text(response, 503, text);
}

static void later(const struct query *query, struct response *response) {
    const char *text = value(query, "text", "");
    const char *size = value(query, "size", NULL);
    uint64_t delay_ms, count, payload_bytes = strlen(text);
    if (!number(value(query, "delay-ms", "5000"), &delay_ms) ||
        !number(value(query, "count", "1"), &count) || count == 0 ||
        (size && !number(size, &payload_bytes))) {
        return response_text(response, 400, "delay-ms, count or size is not a number");
    }
    char *payload = payload_bytes < SIZE_MAX ? malloc(payload_bytes + 1) : NULL;
    if (!payload) return response_text(response, 400, "size is more than there is memory");
    if (size) memset(payload, 'x', payload_bytes);
    else memcpy(payload, text, payload_bytes);

    /* A delay beyond what fits is beyond every limit too, and the server says so. */
    uint64_t delay = delay_ms > UINT64_MAX / 1000000 ? UINT64_MAX : delay_ms * 1000000;
    struct scheduled scheduled;
    do scheduled = call_later(delay, payload, payload_bytes);
    while (scheduled.error == SCHEDULED && --count > 0);
    free(payload);
    if (scheduled.error != SCHEDULED) return refuse(response, scheduled);
    char id[24];
    snprintf(id, sizeof id, "%llu", scheduled.id);
    response_text(response, 200, id);
}

static void cancel_call(const struct query *query, struct response *response) {
    uint64_t id;
    if (!number(value(query, "id", ""), &id)) return response_text(response, 400, "id is not a number");
    response_text(response, 200, cancel(id) ? "true" : "false");
}

static void log_text(const struct query *query, struct response *response) {
    const char *text = value(query, "text", "");
    printf("out %s\n", text);
    fflush(stdout);
    fprintf(stderr, "err %s\n", text);
    response_text(response, 200, "logged");
}

/* Writes `k:LINE` for each line of a file, k from 0. */
static const char *read_lines(const char *name) {
    static char error[256];
    snprintf(error, sizeof error, "%s: cannot be read", name);
    FILE *file = fopen(name, "r");
    if (!file) return error;
    char *line = NULL;
    size_t capacity = 0;
    for (size_t k = 0; getline(&line, &capacity, file) >= 0; k++) {
        line[strcspn(line, "\n")] = 0;
        printf("%zu:%s\n", k, line);
    }
    bool failed = ferror(file);
    free(line);
    fclose(file);
    return failed ? error : NULL;
}

const char *deferred(const struct deferred_call *call) {
    if (strcmp(call->payload, "fail") == 0) return "asked to fail";
    if (strncmp(call->payload, "read ", 5) == 0) return read_lines(call->payload + 5);
    printf("deferred %s\n", call->payload);
    return NULL;
}

static void percent_decode(char *text) {
    char *end = text;
    for (const char *from = text; *from; end++) {
        if (from[0] == '%' && isxdigit(from[1]) && isxdigit(from[2])) {
            const char digits[] = {from[1], from[2], 0};
            *end = (char)strtol(digits, NULL, 16);
            from += 3;
        } else {
            *end = *from++;
        }
    }
    *end = 0;
}

/* Takes `a=b&c=d` apart, in place. */
static struct query parse(char *text) {
    struct query query = {0};
    for (char *name = strtok(text, "&"); name && query.count < PARAMETERS_MAX; name = strtok(NULL, "&")) {
        char *value = strchr(name, '=');
        if (!value) continue;
        *value++ = 0;
        percent_decode(value);
        query.parameters[query.count].name = name;
        query.parameters[query.count++].value = value;
    }
    return query;
}

/* The first value of this name. */
static const char *value(const struct query *query, const char *name, const char *otherwise) {
    for (size_t i = 0; i < query->count; i++) {
        if (strcmp(query->parameters[i].name, name) == 0) return query->parameters[i].value;
    }
    return otherwise;
}

/* False if the text is anything but a decimal number that fits. */
static bool number(const char *text, uint64_t *number) {
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return isdigit(text[0]) && *end == 0 && errno == 0;
}
