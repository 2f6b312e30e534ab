# language: python
# expect: ok protocol
# use: wire
# why: A pattern that takes exponential time where an engine backtracks; the host's does not.
say(
    frame(
        {"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0},
        b"((([a-z ]+)+)+)+$x",
    )
)
say(frame(DONE))
time.sleep(30)
