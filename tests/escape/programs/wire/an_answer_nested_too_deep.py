# language: python
# expect: output
# use: wire
# why: A value that cannot be walked.
say(frame({"op": "final", "form": "json"}, b"[" * 30000 + b"]" * 30000))
time.sleep(30)
