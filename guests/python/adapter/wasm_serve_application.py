"""The module that componentize-py is pointed at: its two exported classes.

Everything here runs once, while the component is built; what is in memory at
the end is what each instance starts with.
"""

import sys

# Modules are what their sources say: no compiled form of another time is read, and none is
# written to the folders of the user's modules, which are mounted writable.
sys.pycache_prefix = "/none"
sys.dont_write_bytecode = True

from wasm_serve import report

with report.of_the_build():
    from wasm_serve import variables

    variables.watch()
    from wasm_serve import application, callbacks, commonly_needed, host, loop, streams_of_output, temporary, wsgi
    from wasm_serve import beginning, chance, contexts, handles

    streams_of_output.install()
    loop.install()
    temporary.install()
    handles.watch()
    chance.watch()
    wsgi.serve(application.load())
    # What was printed meanwhile is not to be printed by each instance.
    streams_of_output.flush()


class IncomingHandler:
    handle = staticmethod(wsgi.handle)


class Callback:
    run = staticmethod(callbacks.run)


with report.of_the_build():
    handles.let_go()
    chance.let_go()
    variables.let_go()
    contexts.begin_here()
    wsgi.answer = contexts.starting(wsgi.answer)
    callbacks.run_call = contexts.starting(callbacks.run_call)
    report.finish()
beginning.install()
host.install()
