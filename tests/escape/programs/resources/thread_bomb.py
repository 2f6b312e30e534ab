# language: both
# expect: processes
# limit: limits.processes
# why: Threads are tasks of the kernel.
# gvisor: expect error memory ; why tasks: its kernel counts none; their stacks use up the address space
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,)).start()
