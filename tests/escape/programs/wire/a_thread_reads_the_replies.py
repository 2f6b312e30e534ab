# language: python
# expect: timeout error ok protocol
# use: wire
# why: Another reader takes what the agent waits for: only this program is harmed.
# hasty
import threading
threading.Thread(target=lambda: [os.read({{wire_read}}, 100) for _ in range(1000)], daemon=True).start()
print(context[0:10])
print(budget())
