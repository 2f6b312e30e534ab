# language: python
# expect: protocol ok
# use: wire
# why: The next cell is declared done before it was ordered.
say(frame(DONE))
import threading
def more():
    for _ in range(2000):
        say(frame({"op": "budget", "id": 7}))
        say(frame(DONE))
threading.Thread(target=more).start()
time.sleep(1)
#%%
print("second cell")
