# language: python
# expect: ok
# says: answer
# why: The answer is out; what runs on in threads and children is killed with the box.
import os, threading, time
def later():
    time.sleep(0.2)
    if os.fork() == 0:
        time.sleep(2)
        open("{{marker}}", "w")
threading.Thread(target=later).start()
FINAL("answer")
