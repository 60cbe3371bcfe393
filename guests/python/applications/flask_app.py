"""Flask on wasm-serve: forms, JSON, templates, an upload, sessions, a large download, and work after the answer."""

import asyncio
import hashlib

import flask_package
from flask import Flask, Response, abort, jsonify, redirect, render_template, request, session, url_for

app = Flask("flask_package")
# A program of your own takes it from the environment of the server: os.environ, at the first request.
app.secret_key = "for the example only"


def write_down(name, words):
    print(f"written down for {name}: {words}")


class Stamp:
    """A WSGI middleware: one header for each response."""

    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start_response):
        def stamped(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Stamped", environ["PATH_INFO"])], exc_info)

        return self.application(environ, stamped)


@app.get("/")
def index():
    return render_template("index.html", name=session.get("name"), times=flask_package.TIMES)


@app.post("/login")
def login():
    session["name"] = request.form["name"]
    return redirect(url_for("index"))


@app.post("/json")
def sums():
    return jsonify(sum=sum(request.get_json()["numbers"]))


@app.post("/upload")
def upload():
    file, length, sum_of_all = request.files["file"], 0, hashlib.sha256()
    while piece := file.stream.read(65536):
        length += len(piece)
        sum_of_all.update(piece)
    return jsonify(name=file.filename, length=length, sha256=sum_of_all.hexdigest())


@app.get("/download")
def download():
    return Response((b"%065535d\n" % number for number in range(320)), mimetype="application/octet-stream")


@app.post("/later")
def later():
    asyncio.get_event_loop().call_later(0.5, write_down, session.get("name"), request.form["words"])
    return "It will be written down.\n", 202


@app.get("/fails")
def fails():
    raise RuntimeError("on purpose")


@app.get("/teapot")
def teapot():
    abort(418)


@app.errorhandler(404)
def not_found(error):
    return jsonify(error="not found", path=request.path), 404


application = Stamp(app)
# Templates are read and compiled now: their files are not there at run time.
with app.app_context():
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)
app.jinja_env.auto_reload = False
