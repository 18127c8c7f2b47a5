"""Pushes two files as an artifact, finds it, and fetches them: HOST USER, the token on standard input."""

import sys

import oras.client

host, user = sys.argv[1:3]
# Its other way, by tokens, keeps the first token it was given, also for what needs another scope.
client = oras.client.OrasClient(hostname=host, insecure=True, auth_backend="basic")
client.login(hostname=host, username=user, password=sys.stdin.read().strip(), config_path="./oras.json")
name = f"{host}/team/notes"
answer = client.push(
    target=f"{name}:v1",
    files=["text:text/plain", "bytes:application/x-bytes"],
    manifest_annotations={"who": "oras"},
)
assert answer.status_code == 201, answer.text
assert client.get_tags(name) == ["v1"]
manifest = client.get_manifest(f"{name}:v1")
assert [layer["mediaType"] for layer in manifest["layers"]] == ["text/plain", "application/x-bytes"]
assert manifest["annotations"] == {"who": "oras"}
client.pull(target=f"{name}:v1", outdir="back")
