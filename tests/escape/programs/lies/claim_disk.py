# language: python
# expect: error
# why: An OSError with the right number.
import errno
raise OSError(errno.ENOSPC, 'No space left on device')
