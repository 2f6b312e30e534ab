# language: python
# expect: error
# use: wire
# says: is over the limit of 65536
# refused: search.pattern
# why: A pattern larger than any that was written by hand.
come = b""
def take(size):
    global come
    while len(come) < size:
        come += os.read({{wire_read}}, 65536)
    data, come = come[:size], come[size:]
    return data
def reply():
    header, body = struct.unpack("!II", take(8))
    return take(header), take(body)
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"a" * 70000))
raise RuntimeError(reply())
