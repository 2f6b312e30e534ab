# advice: print() writes to the output
import sys
print(sys.modules)
