import json, os, struct, time
def frame(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("!II", len(text), len(body)) + text + body
def say(*frames):
    data = b"".join(frames)
    while data:
        data = data[os.write(3, data):]
DONE = {"op": "done", "cell": 1, "status": "ok", "error": None, "variables": [], "unlisted": 0}
