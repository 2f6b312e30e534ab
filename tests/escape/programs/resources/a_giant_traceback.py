# language: both
# expect: error
# why: A chain of a thousand causes.
error = None
for number in range(1000):
    try:
        raise ValueError("x" * 1000) from error
    except ValueError as caught:
        error = caught
raise error
