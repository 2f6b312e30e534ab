# why: When a thread ends the kernel wakes whoever waits, shared, on the word that its maker named: any word.
import ctypes, os, time

libc = ctypes.PyDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
file = os.open("/usr/lib/belljar/guest/agent/loop.py", os.O_RDONLY)
page = ctypes.c_void_p(libc.mmap(None, 4096, 1, 1, file, 0))
rounds = 5
#%% wait
free = ctypes.CDLL(None, use_errno=True)
value = ctypes.c_uint32.from_address(page.value).value
meet()
until, brief = time.monotonic() + 3, (ctypes.c_long * 2)(0, 0)
while time.monotonic() < until:
    if free.syscall(202, page, 0x109, value, None, None, -1) == 0:
        escaped("woken")
        break
    if ctypes.get_errno() in (1, 11):  # not permitted; look again
        break
meet()


#%% end threads
def a_process_whose_first_thread_ends():
    """It names the page as the place of its number, and another of its threads lives on for a while."""
    child = libc.syscall(56, ctypes.c_long(0x01200011), None, None, page, None)
    if child == 0:
        thread = ctypes.c_ulong()
        libc.pthread_create(ctypes.byref(thread), None, libc.usleep, ctypes.c_void_p(50_000))
        libc.syscall(60, 0)
    assert child > 0, ctypes.get_errno()
    os.waitpid(child, 0)


meet()
for _ in range(rounds):
    time.sleep(0.1)
    a_process_whose_first_thread_ends()
meet()
