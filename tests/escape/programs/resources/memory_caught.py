# language: both
# expect: cpu error memory timeout
# why: The error is caught, again and again.
kept = []
while True:
    try:
        kept.append("x" * 10_000_000)
    except BaseException:
        pass
