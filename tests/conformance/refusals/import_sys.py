# advice: sys.modules is not available; sys offers: argv
import sys
print(sys.modules)
