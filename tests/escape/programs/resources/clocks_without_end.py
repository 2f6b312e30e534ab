# language: python
# expect: output
# limit: limits.output_flood
# use: wire
# why: What a program claims to have read of clocks is work for the host, also where it is not kept.
hours = frame({"op": "clock", "cell": 1}, bytes(9)) * 500
while True:
    say(hours)
