# language: both
# expect: timeout
# limit: limits.cell_wall
# hasty
# why: The interrupt is an exception, and exceptions can be caught.
import time
while True:
    try:
        time.sleep(3600)
    except BaseException:
        pass
