"""The beginning of an instance: what it does before its first call."""

from wasm_serve import callbacks, chance, host, variables, wsgi


def begin():
    variables.set_again(host.call_import(host.ENVIRONMENT, ()))
    chance.seed_all()


def is_the_next_call():
    """At the end of the build: whichever call comes next begins an instance."""
    usual = wsgi.answer, callbacks.run_call

    def begin_with_request(request, outparam):
        wsgi.answer, callbacks.run_call = usual
        begin()
        wsgi.answer(request, outparam)

    def begin_with_call(call):
        wsgi.answer, callbacks.run_call = usual
        begin()
        callbacks.run_call(call)

    wsgi.answer, callbacks.run_call = begin_with_request, begin_with_call
