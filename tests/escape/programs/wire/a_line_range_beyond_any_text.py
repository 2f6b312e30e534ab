# language: python
# expect: error
# use: wire
# says: line 999: the grass is green
# why: As many lines as there are numbers.
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
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "lines", "start": 999, "stop": 9007199254740991, "limit": 1, "line": 0}, b""))
raise RuntimeError(reply())
