# language: python
# expect: timeout
# use: wire
# why: The model is the run's, whatever is wished.
# hasty
# refused: model.denied
say(frame({"op": "query", "id": 1, "model": "claude-fable-5-2", "lengths": [1]}, b"x"), frame({"op": "query", "id": 2, "model": "../../etc/passwd", "lengths": [1]}, b"x"))
time.sleep(30)
