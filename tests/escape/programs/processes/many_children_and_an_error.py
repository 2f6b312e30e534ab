# language: python
# expect: error
# says: mine
# gvisor: expect error cpu ; why tasks: its kernel takes the CPU time of so many children, and the box meets its limit
# why: Children that stop one another and whoever else comes, while the host judges an error of the system.
import os, signal, time
for _ in range(8):
    if os.fork() == 0:
        while True:
            for pid in range(2, 300):
                if pid != os.getpid():
                    try:
                        os.kill(pid, signal.SIGSTOP)
                    except OSError:
                        pass
            time.sleep(0.01)
time.sleep(0.1)
raise OSError("mine")
