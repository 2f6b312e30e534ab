# language: python
# expect: timeout cpu
# hasty
# why: Describing it takes for ever.
import time
class Evil(Exception):
    def __str__(self):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
raise Evil
