# language: both
# expect: timeout
# limit: cell_wall_ms
# hasty
# why: Uses nothing but time.
import time
time.sleep(3600)
