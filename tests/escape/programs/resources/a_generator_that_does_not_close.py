# language: both
# expect: ok
# says: answer
# why: Teardown runs code; ours is a kill.
def forever():
    try:
        yield 1
    finally:
        while True:
            pass
generator = forever()
next(generator)
FINAL("answer")
