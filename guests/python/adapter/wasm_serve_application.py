"""The module that componentize-py is pointed at: its exported classes.

Everything here runs once, while the interpreter is made. What is in memory at the end is what the
build of each application starts with: `Application.load` imports the application, and what is in
memory then is what each instance starts with.
"""

import os
import sys

# Modules are what their sources say: no compiled form of another time is read, and none is written.
sys.pycache_prefix = "/none"
sys.dont_write_bytecode = True
# They are componentize-py's, for the interpreter alone.
os.environ.clear()

from wasm_serve import application, callbacks, commonly_needed, host, lasting, library, loop, rehearsal, report
from wasm_serve import streams_of_output, temporary, wsgi

streams_of_output.install()
loop.install()
temporary.install()
library.copy_to(report.FOLDERS[0])


class Application:
    rehearse = staticmethod(rehearsal.begin)
    load = staticmethod(application.load)
    lasting = staticmethod(lasting.places)


class IncomingHandler:
    handle = staticmethod(wsgi.handle)


class Callback:
    run = staticmethod(callbacks.run)


report.keep_lines()
host.install()
