"""The event loop, a path for each thing that it does or refuses."""

import asyncio
import functools
import time


def note(*arguments):
    print("ran", *arguments)


def fail():
    raise ValueError("in the callback")


class Account:
    def __init__(self, owner):
        self.owner = owner

    def pay(self, amount):
        print("paid", self.owner, amount)


def again(times):
    print("again", times)
    if times:
        asyncio.get_event_loop().call_later(0.05, again, times - 1)


async def waits():
    async def one(number):
        await asyncio.sleep(0.05)
        return number

    return await asyncio.wait_for(asyncio.gather(one(1), one(2)), 1)


def refused(function, *arguments):
    try:
        function(*arguments)
    except Exception as reason:
        return f"{type(reason).__name__}: {reason}"
    return "not refused"


LOOP_AT_IMPORT = asyncio.get_event_loop()


class Slow:
    """Takes long to become a payload."""

    def __reduce__(self):
        time.sleep(0.3)
        return str, ("slow",)


def in_order(loop, _):
    """Each is scheduled after one that starts later, or at the same time; some of the times are over by then."""
    base = loop.time() + 0.2
    timers = []
    for number, seconds in enumerate((0.002, 0.001, 0.4, 0.4, 0.3, 0.001)):
        value = Slow() if number == 0 else "quick"
        timers.append(loop.call_at(base + seconds, note, f"in order {number}", value))
        yield f"when: {timers[-1].when() == base + seconds}"


def handles(loop, _):
    loop.set_exception_handler(
        lambda loop, context: print("handled", repr(context["exception"]), context["handle"].id > 0, context["message"])
    )
    loop.call_soon(fail)
    yield "scheduled"


async def coroutine():
    pass


class Asynchronous:
    async def __call__(self):
        pass


def refuses(loop, _):
    for times in (float("inf"), 1e30), (float("nan"),), (None,):
        for value in times:
            yield refused(loop.call_later, value, note)
            yield refused(loop.call_at, value, note)
    for callback in (coroutine, functools.partial(coroutine), Asynchronous()):
        yield refused(loop.call_soon, callback)
    loop.call_later(-float("inf"), note, "what was due long ago")


PATHS = {"/in-order": in_order, "/handles": handles, "/refuses": refuses}


def application(environ, start_response):
    loop = asyncio.get_event_loop()
    if environ["PATH_INFO"] in PATHS:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ["\n".join(PATHS[environ["PATH_INFO"]](loop, environ)).encode()]
    said = [f"one loop: {loop is LOOP_AT_IMPORT}"]
    loop.call_later(0.1, note, "call_later", 1)
    loop.call_at(loop.time() + 0.1, note, "call_at")
    loop.call_soon(note, "call_soon")
    loop.call_later(0.1, functools.partial(note, "partial"))
    loop.call_later(0.1, Account("me").pay, 5)
    loop.call_later(0.1, lambda: print("ran lambda"))
    local = environ["PATH_INFO"]

    def closure():
        print("ran closure", local)

    loop.call_later(0.1, closure)
    loop.call_later(0.1, fail)
    loop.call_later(0, again, 2)
    timer = loop.call_later(0.2, note, "a cancelled call")
    timer.cancel()
    said.append(f"cancelled: {timer.cancelled()}, when: {timer.when() - loop.time():.1f}")
    said.append(f"asyncio.run: {asyncio.run(waits())}")
    said.append(f"run_until_complete: {loop.run_until_complete(waits())}")
    said.append(refused(loop.call_later, 1, note, (number for number in ())))
    said.append(refused(loop.call_later, 1, note, "x" * 70000))
    said.append(refused(loop.call_later, 1e9, note))
    said.append(refused(loop.run_in_executor, None, note))
    said.append(refused(loop.create_task, waits()))
    said.append(refused(loop.add_reader, 0, note))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\n".join(said).encode()]
