import os

import requests

UPSTREAM = os.environ['UPSTREAM']


def application(environ, start_response):
    body = requests.get(UPSTREAM).content
    start_response('200 OK', [('Content-Type', 'text/html'), ('Content-Length', str(len(body)))])
    return [body]
