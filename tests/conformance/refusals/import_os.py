# advice: the document is in `context`
import os
print(os.listdir("."))
