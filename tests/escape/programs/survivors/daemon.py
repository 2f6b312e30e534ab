# language: python
# expect: ok
# says: started
# why: Forked twice, ignoring every signal: gone with the box, before it can leave its mark.
import os, signal, time
if os.fork() == 0:
    if os.fork() == 0:
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        os.close(3)
        time.sleep(2)
        open("{{marker}}", "w").write("still alive")
    os._exit(0)
os.wait()
print("started")
