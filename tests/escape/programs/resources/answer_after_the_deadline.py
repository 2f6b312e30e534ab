# language: both
# expect: timeout
# hasty
# why: The interrupt is caught and the answer given then: it is void.
import time
try:
    time.sleep(3600)
except BaseException:
    FINAL("too late")
