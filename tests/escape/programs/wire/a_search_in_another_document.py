# language: python
# expect: error
# use: wire replies
# says: there is no document 7
# refused: read.no_document
# why: An index of nobody's.
say(frame({"op": "search", "id": 1, "doc": 7, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"a"))
raise RuntimeError(reply())
