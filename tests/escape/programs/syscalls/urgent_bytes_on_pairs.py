# language: python
# expect: ok
# use: refused
# says: sendto 0x1 EPERM
# why: Out-of-band bytes on a pair were a way out of sandboxes; no other flag but those for waiting is needed either.
import socket
one, other = socket.socketpair()
data = ctypes.create_string_buffer(b"xxxx", 64)
needed = {"sendto": (45 - 1, 0x40 | 0x4000), "recvfrom": (45, 0x2 | 0x40 | 0x100)}
for name, (number, fine) in needed.items():
    for bit in range(32):
        if not fine >> bit & 1:
            for descriptor in (one.fileno(), 3):
                refused(f"{name} {1 << bit:#x}", number, descriptor, data, 1, 1 << bit, 0, 0)
                refused(f"{name} {1 << bit:#x} with others", number, descriptor, data, 1, 1 << bit | 0x40, 0, 0)
refused("sendto somewhere", 44, one.fileno(), data, 1, 0, ctypes.create_string_buffer(b"\1\0\0belljar"), 10)
for name, number in (("sendmsg", 46), ("recvmsg", 47), ("sendmmsg", 307), ("recvmmsg", 299)):
    refused(name, number, one.fileno(), data, 1, 1)
for kind in (2, 3, 4, 5, 6, 10, 0x802, 0x80005, 0x801):
    refused(f"socketpair {kind:#x}", 53, 1, kind, 0, data)
refused("socketpair with a protocol", 53, 1, 1, 1, data)
