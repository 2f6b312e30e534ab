# language: python
# expect: timeout
# limit: limits.cell_wall
# hasty
# why: A blocked signal is not even delivered.
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
time.sleep(3600)
