# language: both
# expect: timeout
# limit: cell_wall_ms
# hasty
# why: A deadlock with oneself.
import threading
lock = threading.Lock()
lock.acquire()
lock.acquire()
