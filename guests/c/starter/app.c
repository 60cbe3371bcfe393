#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wasm_serve.h"

#define DELAY_NANOSECONDS (5 * UINT64_C(1000000000))

/* Answers a request, and defers the rest of the work: it begins five seconds later,
   in any instance. Only the payload passes from here to there. */
void handle(struct request *request, struct response *response) {
    char *target = request_target(request);
    struct scheduled scheduled = call_later(DELAY_NANOSECONDS, target, strlen(target));
    if (scheduled.error) {
        fprintf(stderr, "not deferred, for error %d of enum schedule_error\n", scheduled.error);
        if (scheduled.error == UNAVAILABLE) free(scheduled.reason);
    }
    free(target);
    response_text(response, 200, "Hello World\n");
}

/* Runs the deferred call. Standard output is the server's log. */
const char *deferred(const struct deferred_call *call) {
    printf("deferred: %s\n", call->payload);
    return NULL;
}
