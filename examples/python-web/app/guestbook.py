"""A guest book: one page, one form, one file."""

import argparse
import json
import pathlib

from flask import Flask, redirect, render_template, request

BOOK = pathlib.Path("/srv/data/book.json")
app = Flask(__name__)


def entries():
    try:
        return json.loads(BOOK.read_text())
    except FileNotFoundError:
        return []


@app.get("/")
def page():
    return render_template("page.html", entries=entries())


@app.post("/")
def sign():
    name = request.form["name"].strip()[:80]
    if name:
        BOOK.write_text(json.dumps(entries() + [name]))
    return redirect("/")


def check():
    """Signs the book and reads it back through the application itself."""
    client = app.test_client()
    assert client.post("/", data={"name": "Ada"}).status_code == 302
    answer = client.get("/")
    assert answer.status_code == 200
    assert "Ada" in answer.text
    print("guest book: signed and read back")


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check")
    serve = verbs.add_parser("serve")
    serve.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    if arguments.verb == "check":
        check()
    else:
        app.run(host="127.0.0.1", port=arguments.port)


main()
