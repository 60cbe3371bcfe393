"""The beginning of an instance: what it does before its first call."""

from wasm_serve import callbacks, chance, host, variables, wsgi


def is_the_next_call():
    """At the end of the build: whichever export is called next begins an instance."""
    from wasm_serve_application import Callback, IncomingHandler

    exports = [(IncomingHandler, "handle", wsgi.handle), (Callback, "run", callbacks.run)]
    for export, name, function in exports:
        setattr(export, name, staticmethod(_beginning_with(function, exports)))


def _beginning_with(function, exports):
    def begin(*arguments):
        for export, name, itself in exports:
            setattr(export, name, staticmethod(itself))
        variables.set_again(host.call_import(host.ENVIRONMENT, ()))
        chance.seed_all()
        function(*arguments)

    return begin
