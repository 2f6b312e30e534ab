# says: inotify_init1 EPERM
# why: A watch on a file of the image tells who else opens it.
import ctypes, errno, os

libc = ctypes.CDLL(None, use_errno=True)
path = b"/usr/lib/belljar/guest/agent/loop.py"


#%% watch
def attempt(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print(name, errno.errorcode.get(ctypes.get_errno()))
    return result


inotify = attempt("inotify_init1", 294, 0o4000)
attempt("inotify_init", 253)
attempt("inotify_add_watch", 254, inotify, path, 0xFFF)
fanotify = attempt("fanotify_init", 300, 0x200 | 2, 0)
attempt("fanotify_mark", 301, fanotify, 1, ctypes.c_long(0xFFF), -100, path)
folder = os.open(os.path.dirname(path), os.O_RDONLY)
attempt("F_NOTIFY", 72, folder, 1026, 0x80000000 | 0x3F)
meet()
meet()
for descriptor in (inotify, fanotify):
    if descriptor >= 0:
        escaped("watching", descriptor)
#%% open
meet()
for _ in range(5):
    with open(path, "rb") as file:
        file.read()
    os.stat(path)
meet()
