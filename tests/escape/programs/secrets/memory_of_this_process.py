# language: python
# expect: ok
# says: megabytes
# why: The box is a clone: whatever its parent ever had in memory, it has too. Everything near known addresses is looked at.
import ctypes, os, re
readable, writable = os.pipe()
os.set_blocking(writable, False)
word = b"BJ" + b"CANARY"
libc = ctypes.CDLL(None, use_errno=True)
def page(address):
    if libc.write(writable, ctypes.c_void_p(address), ctypes.c_size_t(4096)) != 4096:
        return b""
    return os.read(readable, 4096)
seen, pages = 0, set()
local = ctypes.c_long()
stack = ctypes.cast(libc.environ, ctypes.c_void_p).value if hasattr(libc, "environ") else 0
roots = [id(object()), id(os), id([]), ctypes.addressof(local), ctypes.cast(libc.malloc, ctypes.c_void_p).value]
roots.append(ctypes.c_void_p.in_dll(libc, "environ").value or id(os))
for root in roots:
    for address in range((root & ~4095) - (6 << 20), (root & ~4095) + (6 << 20), 4096):
        if address <= 0 or address in pages:
            continue
        pages.add(address)
        data = page(address)
        seen += len(data)
        for match in re.finditer(word + rb"[0-9a-f]{8,}", data):
            escaped(match[0])
print(seen > 2 << 20, "megabytes", seen >> 20)
