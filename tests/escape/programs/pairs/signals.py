# why: Numbers of processes are the box's own, and no signal leaves it.
import os, signal

caught = []
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGCHLD):
    signal.signal(number, lambda number, frame: caught.append(number))
#%% send
meet()
for number in (signal.SIGUSR1, signal.SIGURG):
    for target in (-1, *range(2, 1000)):
        try:
            os.kill(target, number)
            print("sent to", target)
        except OSError:
            pass
meet()
#%% be there
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
caught.clear()
meet()
meet()
if caught:
    escaped(caught)
