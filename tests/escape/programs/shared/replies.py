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
