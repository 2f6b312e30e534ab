# language: python
# expect: error
# use: wire replies
# says: QuotaExceeded
# refused: context.read_total
# why: Small reads cost a record in the log each.
reads = b"".join(frame({"op": "read", "id": number, "doc": 0, "start": 0, "stop": 1, "line": 0}) for number in range(1000, 1008))
while True:
    say(reads)
    for _ in range(8):
        header, _ = reply()
        if b"refused" in header:
            refusal = header
    if "refusal" in globals():
        raise RuntimeError(refusal.decode())
