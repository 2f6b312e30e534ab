# why: Files of the image and devices are the same in every box; a lock, lease or notice on one would be seen in others.
import ctypes, errno, fcntl, os, struct

libc = ctypes.CDLL(None, use_errno=True)
places = [("/usr/bin/python3", os.O_RDONLY), ("/dev/null", os.O_RDWR), ("/dev/zero", os.O_RDWR)]
files = [os.open(*place) for place in places]
F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_SETLEASE, F_GETLEASE = 5, 36, 37, 1024, 1025


def lock(kind):
    return struct.pack("hhqqi4x", kind, 0, 0, 0, 0)


#%% lock
for file in files:
    for attempt in (
        lambda: fcntl.fcntl(file, fcntl.F_SETLK, lock(fcntl.F_WRLCK)),
        lambda: fcntl.fcntl(file, F_OFD_SETLK, lock(fcntl.F_WRLCK)),
        lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda: fcntl.fcntl(file, F_SETLEASE, fcntl.F_RDLCK),
    ):
        try:
            attempt()
        except OSError:
            pass
meet()
meet()
#%% look
meet()
for file in files:
    for command in (F_GETLK, F_OFD_GETLK):
        try:
            found = fcntl.fcntl(file, command, lock(fcntl.F_WRLCK))
            if struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK:
                escaped("a lock", found)
        except OSError:
            pass
    for attempt in (
        lambda: fcntl.fcntl(file, fcntl.F_SETLK, lock(fcntl.F_WRLCK)),
        lambda: fcntl.fcntl(file, F_OFD_SETLK, lock(fcntl.F_WRLCK)),
        lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
    ):
        try:
            attempt()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                escaped("it is taken", error)
meet()
