# language: python
# expect: timeout
# limit: limits.cell_wall
# hasty
# why: A handler of one's own for everything that can be handled.
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    time.sleep(3600)
