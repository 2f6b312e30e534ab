# language: python
# expect: error
# use: wire
# why: The host keeps and prints no more of it than of output.
error = {"type": "E", "message": "m", "line": None}
done = {"op": "done", "cell": 1, "status": "error", "error": error, "variables": [], "unlisted": 0}
say(frame(done, b"\x1b" * 2**20))
time.sleep(30)
