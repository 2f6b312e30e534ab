# language: python
# expect: protocol
# use: wire
# why: Frames cut by other frames.
import threading
def write():
    for _ in range(300):
        os.write(3, frame({"op": "output", "cell": 1, "stream": "stdout"}, b"x" * 3000)[:1500])
for _ in range(4):
    threading.Thread(target=write).start()
time.sleep(30)
