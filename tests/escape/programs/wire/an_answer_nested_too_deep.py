# language: python
# expect: output
# use: wire
# why: A value that cannot be walked.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"[" * 30000 + b"]" * 30000))
time.sleep(30)
