# language: python
# expect: error
# use: wire
# says: "count":0
# why: Characters that do not exist are not searched.
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
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 9007199254740991, "stop": 9007199254740991, "limit": 10, "line": 0}, b"a"))
raise RuntimeError(reply())
