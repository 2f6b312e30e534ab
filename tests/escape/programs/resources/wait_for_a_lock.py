# language: both
# expect: timeout
# limit: limits.cell_wall
# hasty
# why: A deadlock with oneself.
import threading
lock = threading.Lock()
lock.acquire()
lock.acquire()
