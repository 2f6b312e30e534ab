# language: both
# expect: timeout
# limit: cell_wall_ms
# hasty
# why: The interrupt is an exception, and exceptions can be caught.
import time
while True:
    try:
        time.sleep(3600)
    except BaseException:
        pass
