# language: python
# expect: output
# use: wire
# limit: answer.too_deep
# why: What others walk by recursion, and indent by their depth.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"[" * 65 + b"]" * 65))
time.sleep(30)
