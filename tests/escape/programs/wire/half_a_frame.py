# language: python
# expect: timeout
# use: wire
# why: The rest never comes.
# limit: limits.cell_wall
# hasty
say(frame({"op": "final", "cell": 1, "form": "text"}, b"x" * 1000)[:-1])
time.sleep(30)
