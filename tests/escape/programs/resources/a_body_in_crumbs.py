# language: python
# expect: output
# limit: limits.output_flood
# use: wire
# why: A frame that never ends and comes byte by byte wakes the host, and whoever forwards it, for each of them.
header = b'{"op":"output","cell":1,"stream":"stdout"}'
os.write(3, struct.pack("!II", len(header), 2**20) + header)
while True:
    os.write(3, b"x")
    time.sleep(0.0001)
