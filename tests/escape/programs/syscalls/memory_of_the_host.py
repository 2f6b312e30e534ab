# language: python
# expect: ok
# use: refused
# says: mmap HUGETLB EPERM
# why: Pages from the host's pool, pages that are merged with others', and advice about files that all boxes share.
known = {1, 2, 0x10, 0x20, 0x800, 0x20000}
names = {0x40000: "HUGETLB", 0x2000: "LOCKED", 0x8000: "POPULATE", 0x4000: "NORESERVE", 0x100: "GROWSDOWN", 0x80000: "SYNC"}
for bit in range(32):
    if 1 << bit not in known:
        name = names.get(1 << bit, hex(1 << bit))
        refused(f"mmap {name}", 9, 0, 2 << 20, 3, 0x22 | 1 << bit, -1, 0)
for size in (21, 30):
    refused(f"mmap HUGETLB of 2^{size}", 9, 0, 1 << size, 3, 0x22 | 0x40000 | size << 26, -1, 0)
for protection in (4, 6, 7, 8, 0x0100_0003, 0x0200_0003):
    refused(f"mmap as {protection:#x}", 9, 0, 4096, protection, 0x22, -1, 0)
    refused(f"mprotect as {protection:#x}", 10, 0, 4096, protection)
area = ctypes.create_string_buffer(1 << 16)
place = ctypes.c_void_p(ctypes.addressof(area) + 4095 & ~4095)
for advice in {*range(128)} - {4, 8, 14, 15}:
    refused(f"madvise {advice}", 28, place, 4096, advice)
for flags in (0, 2, 3, 4, 5):
    refused(f"mremap {flags}", 25, place, 4096, 4096, flags, 0)
for name, number in (("mincore", 27), ("msync", 26), ("mlock", 149), ("mlock2", 325), ("mlockall", 151), ("mseal", 462),
                     ("process_madvise", 440), ("remap_file_pages", 216), ("mbind", 237), ("pkey_mprotect", 329)):
    refused(name, number, place, 4096, 0, 0, 0, 0)
