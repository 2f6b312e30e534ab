# says: mincore EPERM
# why: What the host keeps of the image in its memory is the same for all boxes; which pages those are is not to be asked.
import ctypes, errno, os

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
path, pages = "/usr/lib/belljar/guest/language/guards.py", 8
file = os.open(path, os.O_RDONLY)
area = ctypes.c_void_p(libc.mmap(None, pages * 4096, 1, 1, file, 0))
size = ctypes.c_size_t(pages * 4096)


def ask(name, number, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(number), *arguments) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        escaped(name, ctypes.get_errno())
    print(name, errno.errorcode.get(ctypes.get_errno()))


#%% drop and fill
meet()
for advice in (3, 9, 20, 21, 22, 24, 25):  # WILLNEED, REMOVE, COLD, PAGEOUT, POPULATE_READ, DONTNEED_LOCKED, COLLAPSE
    ask(f"madvise {advice}", 28, area, size, advice)
ask("fadvise64", 221, file, 0, size, 4)
ask("readahead", 187, file, 0, size)
ask("mlock", 149, area, size)
meet()
ask("mincore", 27, area, size, ctypes.create_string_buffer(pages))
#%% ask
meet()
meet()
held = ctypes.create_string_buffer(64)
ask("mincore", 27, area, size, held)
ask("cachestat", 451, file, held, held, 0)
ask("preadv2", 327, file, held, 1, 0, 0, 8)  # NOWAIT
ask("process_madvise", 440, -1, held, 1, 21, 0)
