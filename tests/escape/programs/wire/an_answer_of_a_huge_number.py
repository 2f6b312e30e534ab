# language: python
# expect: output
# limit: answer.too_many_digits
# use: wire
# why: A number of five thousand digits.
say(frame({"op": "final", "cell": 1, "form": "json"}, b"1" * 5000))
time.sleep(30)
