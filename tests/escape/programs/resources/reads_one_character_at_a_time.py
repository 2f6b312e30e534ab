# language: python
# expect: error
# use: wire
# says: QuotaExceeded
# refused: read.total
# why: Small reads cost a record in the log each.
come = b""
def take(size):
    global come
    while len(come) < size:
        come += os.read({{wire_read}}, 65536)
    data, come = come[:size], come[size:]
    return data
reads = b"".join(frame({"op": "read", "id": number, "doc": 0, "start": 0, "stop": 1, "line": 0}) for number in range(1000, 1008))
while True:
    say(reads)
    for _ in range(8):
        header, body = struct.unpack("!II", take(8))
        reply = take(header + body)
        if b"refused" in reply:
            refusal = reply
    if "refusal" in globals():
        raise RuntimeError(refusal.decode())
