# language: both
# expect: timeout
# limit: limits.cell_wall
# hasty
# why: Uses nothing but time.
import time
time.sleep(3600)
