# language: both
# expect: timeout cpu
# hasty
# why: The way out leads through a loop.
import time
def again():
    try:
        time.sleep(3600)
    finally:
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                pass
again()
